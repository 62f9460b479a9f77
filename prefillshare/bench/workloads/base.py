"""The contract of workloads: sessions whose calls extend one context, with exact prefixes.

A session's context grows; call i asks for

    context | added_i | role_i        role_i is at the end of this prompt only
    context | added_i | output_i      what call i+1 starts from

All is tokens, so that what two prompts share is exact. Everything follows from the seed but the outputs, whose lengths
are forced and whose tokens are the system's own.
"""

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefillshare.errors import BenchError

FIRST_TOKEN = 10
"""Lowest token id of made-up text; special tokens lie below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a session."""

    module: str
    """Decode module that answers."""
    added: tuple[int, ...]
    """Tokens that join the context before the call."""
    output_tokens: int
    """Length of the answer, which joins the context after the call."""
    role: tuple[int, ...] = ()
    """Tokens at the end of this prompt that do not join the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Calls that follow each other."""

    steps: tuple[Step, ...]
    """The calls, each after the answer of the one before."""
    arrival_s: float | None = None
    """When it begins, in seconds after the start; None where the load says when."""

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt plus its answer."""
        context, longest = 0, 0
        for step in self.steps:
            context += len(step.added)
            longest = max(longest, context + len(step.role) + step.output_tokens)
            context += step.output_tokens
        return longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked in one run."""

    name: str
    """Kind of workload, as on the command line."""
    modules: tuple[str, ...]
    """Decode modules that are asked."""
    sessions: tuple[Session, ...]
    """Its sessions, in the order in which they begin."""
    think_time_s: float = 0.0
    """Seconds from an answer to the next call of its session."""

    @property
    def num_calls(self) -> int:
        """Calls of all sessions."""
        return sum(len(session.steps) for session in self.sessions)

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(step.output_tokens for session in self.sessions for step in session.steps)

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt plus its answer."""
        return max((session.longest_prompt() for session in self.sessions), default=0)

    def check_fits(self, context_length: int) -> None:
        """Raise: BenchError when a call is longer than the context window."""
        if (longest := self.longest_prompt()) > context_length:
            raise BenchError(
                f"the longest call of {self.name} has {longest} tokens with its answer and the context window "
                f"{context_length}: lower --start-tokens, --growth-tokens, --output-tokens or --turns"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a workload; what a workload does not use is ignored."""

    num_sessions: int = 16
    """Sessions per run."""
    start_tokens: int = 1000
    """Context before the first call."""
    growth_tokens: int = 60
    """Tokens that join the context between two calls, without the answer itself."""
    output_tokens: tuple[int, ...] = (16,)
    """Lengths of the answers, taken in turn by the calls of a session."""
    turns: int = 8
    """Calls per session."""
    role_tokens: int = 0
    """Tokens of instructions for one module at the end of each prompt."""
    think_time_s: float = 0.0
    """Seconds from an answer to the next call of its session, as a tool would take."""
    context_length: int = 4096
    """Context window; `trace` is scaled to it."""
    vocab_size: int = 1000
    """Made-up tokens lie below this id."""
    seed: int = 1
    """Seed of everything made up."""
    tags: tuple[str, ...] = field(default=())
    """What else keeps made-up text apart from that of other runs with the same seed, such as a warm-up's."""

    def __post_init__(self) -> None:
        for name in ("num_sessions", "start_tokens", "turns"):
            if (value := getattr(self, name)) < 1:
                raise BenchError(f"{name} is {value}: it must be at least 1")
        if not self.output_tokens or min(self.output_tokens) < 1:
            raise BenchError(f"output_tokens is {list(self.output_tokens)}: give lengths of at least 1")
        if min(self.growth_tokens, self.role_tokens) < 0:
            raise BenchError("growth_tokens and role_tokens must not be negative")
        if not 0 <= self.think_time_s < math.inf:
            raise BenchError(f"think_time_s is {self.think_time_s}: it must be 0 or more seconds")
        if self.vocab_size <= FIRST_TOKEN + 1:
            raise BenchError(f"vocab_size is {self.vocab_size}: it must be more than {FIRST_TOKEN + 1}")


def make_up_tokens(shape: Shape, count: int, *key: object) -> tuple[int, ...]:
    """`count` token ids that depend on the seed and on `key` only."""
    rng = random.Random("/".join(map(str, (shape.seed, *shape.tags, *key))))
    return tuple(rng.choices(_vocabulary(shape.vocab_size), k=count))


@functools.cache
def _vocabulary(size: int) -> tuple[int, ...]:
    """Each number once: of a range, every token would be a number of its own, and a long trace has millions of them."""
    return tuple(range(FIRST_TOKEN, size))


def pick_in_turn(values: Sequence[int], index: int) -> int:
    """The value whose turn it is."""
    return values[index % len(values)]
