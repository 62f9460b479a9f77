"""A trace in Mooncake's JSONL format: arrival times, lengths, and which blocks of the prompt are equal to others'.

Each line has `timestamp` (ms), `input_length`, `output_length` (tokens) and `hash_ids`, one per block of 512 tokens;
equal ids mean equal blocks. Lengths are scaled so that the longest prompt with its answer fits the context window; a
block becomes a smaller block, so two prompts share the same share of their tokens as in the trace.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from prefillshare.bench.workloads.base import Session, Shape, Step, Workload, made_up_tokens
from prefillshare.errors import BenchError

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCall:
    """One line of a trace."""

    timestamp_ms: float
    """Arrival after the start of the trace."""
    input_length: int
    """Tokens of the prompt."""
    output_length: int
    """Tokens of the answer."""
    hash_ids: tuple[int, ...]
    """Its blocks."""


def trace(shape: Shape, modules: tuple[str, ...], file: Path) -> Workload:
    """The first `num_sessions` calls of the trace, dealt to the modules in turn.

    Raises: BenchError when the file is not a trace or the window is too small for its longest prompt.
    """
    calls = read_trace(file, shape.num_sessions)
    block_tokens, scale = _scale(calls, shape.context_length)
    first_ms = calls[0].timestamp_ms
    sessions = []
    for number, call in enumerate(calls):
        step = Step(
            module=modules[number % len(modules)],
            added=_prompt(shape, call, block_tokens),
            output_tokens=max(1, round(call.output_length * scale)),
        )
        sessions.append(Session(steps=(step,), arrival_s=(call.timestamp_ms - first_ms) / 1000))
    return Workload(name="trace", modules=modules, sessions=tuple(sessions))


def read_trace(file: Path, limit: int) -> list[TraceCall]:
    """The first `limit` calls of a trace file.

    Raises: BenchError.
    """
    calls: list[TraceCall] = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if len(calls) == limit:
                    break
                calls.append(_call(line, file, number))
    except OSError as error:
        raise BenchError(f"trace {file} cannot be read ({error.strerror}): name a file in JSONL format") from None
    if not calls:
        raise BenchError(f"trace {file} is empty: name a file in Mooncake's JSONL format")
    return calls


def _call(line: str, file: Path, number: int) -> TraceCall:
    try:
        row = json.loads(line)
        call = TraceCall(
            timestamp_ms=float(row["timestamp"]),
            input_length=int(row["input_length"]),
            output_length=int(row["output_length"]),
            hash_ids=tuple(row["hash_ids"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"{file}:{number} is no line of a trace ({error!r}): it needs timestamp, input_length, output_length and "
            "hash_ids"
        ) from None
    if not (len(call.hash_ids) - 1) * BLOCK_TOKENS < call.input_length <= len(call.hash_ids) * BLOCK_TOKENS:
        raise BenchError(
            f"{file}:{number} has {len(call.hash_ids)} hash_ids for {call.input_length} tokens: there must be one per "
            f"block of {BLOCK_TOKENS} tokens"
        )
    return call


def _scale(calls: list[TraceCall], context_length: int) -> tuple[int, float]:
    """Tokens of a block, and the factor on lengths that comes to."""
    longest = max(call.input_length + call.output_length for call in calls)
    # Rounding of prompt and answer may take one token each.
    block_tokens = min(BLOCK_TOKENS, (context_length - 2) * BLOCK_TOKENS // longest)
    if block_tokens < 1:
        raise BenchError(
            f"the longest call of the trace has {longest} tokens, which do not fit a context window of "
            f"{context_length} even with blocks of one token: use a model with a longer window"
        )
    return block_tokens, block_tokens / BLOCK_TOKENS


def _prompt(shape: Shape, call: TraceCall, block_tokens: int) -> tuple[int, ...]:
    tokens: list[int] = []
    for block in call.hash_ids:
        tokens += made_up_tokens(shape, block_tokens, "block", block)
    return tuple(tokens[: max(1, call.input_length * block_tokens // BLOCK_TOKENS)])
