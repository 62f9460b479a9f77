"""A trace in Mooncake's JSONL format: arrival times, lengths, and which blocks of the prompt are equal to others'.

Each line has `timestamp` (ms), `input_length`, `output_length` (tokens) and `hash_ids`, one per block of 512 tokens;
equal ids mean equal blocks. Lengths are scaled so that the longest prompt with its answer fits the context window; a
block becomes a smaller block, so two prompts share the same share of their tokens as in the trace.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.bench.workloads.base import Session, Shape, Step, Workload, make_up_tokens
from prefillshare.datafiles import keep, read_rows, summarise_left_out
from prefillshare.errors import BenchError

log = logging.getLogger(__name__)

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
    try:
        calls, left_out = keep(read_rows(file, "jsonl"), _call, limit)
    except OSError as error:
        raise BenchError(
            f"trace {file} cannot be read ({error.strerror or error}): name a file in JSONL format"
        ) from None
    if not calls:
        reason = left_out[0] if left_out else "it is empty"
        raise BenchError(
            f"{file} has no line of a trace ({reason}): each needs timestamp, input_length, output_length and hash_ids"
        )
    if left_out:
        log.warning("trace %s: %s", file, summarise_left_out(left_out))
    return calls


def _call(row: Mapping[str, Any]) -> TraceCall:
    call = TraceCall(
        timestamp_ms=float(row["timestamp"]),
        input_length=int(row["input_length"]),
        output_length=int(row["output_length"]),
        hash_ids=tuple(row["hash_ids"]),
    )
    if not math.isfinite(call.timestamp_ms):
        raise ValueError(f"timestamp is {call.timestamp_ms}, no time")
    if not (len(call.hash_ids) - 1) * BLOCK_TOKENS < call.input_length <= len(call.hash_ids) * BLOCK_TOKENS:
        raise ValueError(
            f"there are {len(call.hash_ids)} hash_ids for {call.input_length} tokens and must be one per block of "
            f"{BLOCK_TOKENS} tokens"
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
        tokens += make_up_tokens(shape, block_tokens, "block", block)
    return tuple(tokens[: max(1, call.input_length * block_tokens // BLOCK_TOKENS)])
