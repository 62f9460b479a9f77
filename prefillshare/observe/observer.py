"""Counts the requests of one process: a router, or the HTTP process of an engine.

Every method costs a few dictionary look-ups; the prompt of a call is looked at twice, when the call begins and when
its prefill is done, never while its answer streams.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from prefillshare.observe.choices import Choices
from prefillshare.observe.document import MODULE_COUNTERS, HandoffState, part_of
from prefillshare.observe.events import Events
from prefillshare.observe.modules import ModuleStats
from prefillshare.observe.sessions import Prompt, Session, SessionTable

Outcome = Literal["ok", "error", "refused", "aborted"]
"""`refused`: the caller has to change something, or to come later."""


def outcome_of(status: int) -> Outcome:
    """Return what an answer with this HTTP status says of its request."""
    if status < 400:
        return "ok"
    return "refused" if status < 500 else "error"


class Ledger(Protocol):
    """Whose tokens they are, where somebody keeps accounts."""

    def note_prompt(self, tokens: int, cached: int) -> None:
        """A prompt is prefilled, `cached` of its tokens were there."""
        ...

    def note_generated(self, tokens: int) -> None:
        """An answer has so many tokens more."""
        ...


class Observed:
    """One request from its beginning to its end."""

    __slots__ = (
        "_has_looked",
        "_is_over",
        "_is_prefilled",
        "_ledger",
        "_module",
        "_name",
        "_num_prompts",
        "_observer",
        "_prompt",
        "_session",
        "_stats",
        "num_tokens",
    )

    def __init__(
        self,
        observer: "Observer",
        module: str,
        name: str | None,
        prompt: Prompt,
        num_prompts: int,
        ledger: Ledger | None,
    ) -> None:
        """`name` is the client's for the session."""
        self._ledger = ledger
        self._observer = observer
        self._module = module
        self._name = name
        self._session: Session | None = None
        self._has_looked = False
        self._prompt = prompt
        self._num_prompts = num_prompts
        self._stats = observer.stats_of(module)
        self._stats.num_running += num_prompts
        self._is_over = False
        self._is_prefilled = False
        self.num_tokens = 0
        """Generated tokens so far."""

    @property
    def session(self) -> str | None:
        """Name of the session that it belongs to, also where the client named none; None without a prompt."""
        self.find_session()
        return None if self._session is None else self._session.id

    def find_session(self) -> None:
        """Find the session that it belongs to, unless that is done."""
        if not self._has_looked:
            self._has_looked = True
            self._session = self._observer.sessions.begin(self._name, self._module, self._prompt)

    def note_wait(self, seconds: float) -> None:
        """It waited so long before anything was computed."""
        self._stats.queue.observe(seconds)

    def note_prefill(self, *, tokens: int, own: int, cross: int, avoidable: int = 0) -> None:
        """Its prompt of `tokens` tokens is prefilled; `own` and `cross` of them were cached.

        `avoidable` of the others were cached for modules that share their prompts, which this one does not.

        Only the first time counts: what a further try prefills was prefilled before.
        """
        if self._is_prefilled:
            return
        self._is_prefilled = True
        self.find_session()
        stats = self._stats
        stats.prompt_tokens += tokens
        stats.own_hit_tokens += own
        stats.cross_hit_tokens += cross
        stats.avoidable_tokens += avoidable
        if self._ledger is not None:
            self._ledger.note_prompt(tokens, own + cross)
        if self._session is not None:
            share = self._observer.sessions.note_prefill(
                self._session, self._module, self._prompt, tokens=tokens, own=own, cross=cross
            )
            if share is not None:
                stats.shared_prefix.observe(share)

    def note_first_token(self, seconds: float) -> None:
        """Its first token came so long after its arrival."""
        self._stats.ttft.observe(seconds)
        self._stats.generated_tokens += 1
        self.num_tokens += 1
        if self._ledger is not None:
            self._ledger.note_generated(1)

    def note_tokens(self, count: int, seconds: float) -> None:
        """`count` more tokens came, `seconds` after the one before them."""
        if count > 0:
            self._stats.itl.observe(seconds / count, count)
            self._stats.generated_tokens += count
            self.num_tokens += count
            if self._ledger is not None:
                self._ledger.note_generated(count)

    def end(
        self, outcome: Outcome, *, seconds: float | None = None, retractions: int = 0, reason: str | None = None
    ) -> None:
        """It is over, `seconds` after its arrival; a second call changes nothing."""
        if self._is_over:
            return
        self._is_over = True
        self.find_session()
        stats = self._stats
        stats.num_running -= self._num_prompts
        stats.requests += self._num_prompts
        stats.retractions += retractions
        if outcome == "ok" and seconds is not None:
            stats.e2e.observe(seconds)
        elif outcome == "error":
            stats.errors += self._num_prompts
            self._observer.events.tell("error", self._module, reason or "a request failed")
        elif outcome == "refused":
            stats.refused += self._num_prompts
            self._observer.events.tell("refusal", self._module, reason or "a request was refused")
        elif outcome == "aborted":
            stats.aborted += self._num_prompts
        if self._session is not None:
            self._observer.sessions.end_call(self._session)

    def withdraw(self) -> None:
        """It goes on as other requests: it counts no more."""
        if not self._is_over:
            self._is_over = True
            self._stats.num_running -= self._num_prompts
            if self._session is not None:
                self._observer.sessions.end_call(self._session)


@dataclass(slots=True, kw_only=True)
class Handoffs:
    """KV that went from prefill to decode workers."""

    tokens: int = 0
    """Tokens that the decode worker lacked."""
    bytes: int = 0
    """Bytes moved, whole pages."""
    seconds: float | None = None
    """Time between the ends of prefill and of hand-off; None where nobody measures it."""
    calls: int = 0
    """Hand-offs."""
    memory_bytes: int | None = None
    """Of the bytes, those that were written right into the decode worker's memory; None where nobody knows."""
    memory_calls: int | None = None
    """Of the hand-offs, those that went so; None where nobody knows."""

    def add(
        self, *, tokens: float, size: float, seconds: float | None = None, is_by_memory: bool | None = None
    ) -> None:
        """Count one hand-off of `size` bytes."""
        self.calls += 1
        self.tokens += int(tokens)
        self.bytes += int(size)
        if seconds is not None:
            self.seconds = (self.seconds or 0.0) + seconds
        if is_by_memory is not None:
            self.memory_bytes = (self.memory_bytes or 0) + int(size) * is_by_memory
            self.memory_calls = (self.memory_calls or 0) + is_by_memory

    def as_dict(self) -> HandoffState:
        """Return them by name."""
        return part_of(HandoffState, self)


class Observer:
    """All that one process knows of its requests."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.started = clock()
        self.modules: dict[str, ModuleStats] = {}
        self.handoffs = Handoffs()
        self.choices = Choices()
        self.events = Events(clock)
        self.sessions = SessionTable(clock)

    def stats_of(self, module: str) -> ModuleStats:
        """Return the numbers of `module`, from 0 when nobody called it before."""
        stats = self.modules.get(module)
        if stats is None:
            stats = self.modules[module] = ModuleStats()
        return stats

    def begin(
        self,
        module: str,
        *,
        session: str | None,
        prompt: Prompt,
        num_prompts: int = 1,
        ledger: Ledger | None = None,
        finds_session: bool = True,
    ) -> Observed:
        """A request for `module` arrived; `session` is the client's name for the session that it belongs to.

        Its tokens are told to `ledger`, if one is given.

        To find the session among all takes as long as to choose workers: who has better things to do first calls
        `find_session` afterwards.
        """
        observed = Observed(self, module, session, prompt, num_prompts, ledger)
        if finds_session:
            observed.find_session()
        return observed

    def totals(self) -> ModuleStats:
        """Return the counters of all modules together."""
        total = ModuleStats()
        for stats in self.modules.values():
            total.num_running += stats.num_running
            for name in MODULE_COUNTERS:
                setattr(total, name, getattr(total, name) + getattr(stats, name))
        return total
