"""Whether a load from the store beats prefilling: both are measured while the engine runs, and asked for each prompt.

A store on a slow disk, or a small model on a fast GPU, makes prefilling the cheaper way. What is declined is tried
again now and then, since the measure of loading would otherwise stay what it was.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

MIN_SAMPLE_TOKENS = 32
"""Fewer tokens say more of the way there and back than of the speed."""
NUM_SAMPLES = 15
"""Latest measures that count. Their median does: a thread that stood still once says nothing of the next time."""
MIN_SAMPLES = 5
"""Measures before anything is declined."""
UNKNOWN_FETCH_S = 2.0
"""Longest wait for other hosts before it is known what prefilling takes."""
DECLINED_BEFORE_TRIAL = 32
"""Loads declined in a row after which one is made all the same."""


class Pace:
    """Seconds per token of one kind of work."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=NUM_SAMPLES)

    def add(self, num_tokens: int, seconds: float) -> None:
        """Count work that was done."""
        if num_tokens >= MIN_SAMPLE_TOKENS:
            self._samples.append(seconds / num_tokens)

    @property
    def token_s(self) -> float | None:
        """Seconds per token, None before enough was measured."""
        # A copy: another thread may add in the meantime.
        samples = list(self._samples)
        return statistics.median(samples) if len(samples) >= MIN_SAMPLES else None


@dataclass(kw_only=True, slots=True)
class _Batch:
    """A batch whose requests tell one after the other that it has ended."""

    began: float
    counted_from: float
    num_tokens: int = 0
    ended: float = 0.0


class _Choice:
    """One kind of load, taken unless it is slower, and now and then all the same."""

    def __init__(self) -> None:
        self.num_declined = 0
        self._declined_in_a_row = 0

    def take(self, is_slower: bool) -> bool:
        """Whether to take it; counts what is declined."""
        if not is_slower or self._declined_in_a_row >= DECLINED_BEFORE_TRIAL:
            self._declined_in_a_row = 0
            return True
        self._declined_in_a_row += 1
        self.num_declined += 1
        return False


class LoadCosts:
    """What loads and a prefill cost in one engine, and what was decided."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.load = Pace()
        self.fetch = Pace()
        """From stores of other hosts into this host's; the load from there comes after it."""
        self.prefill = Pace()
        self._loads = _Choice()
        self._fetches = _Choice()
        self._clock = clock
        self._batch = _Batch(began=0.0, counted_from=0.0)

    def finish_prefill(self, num_tokens: int, began: float) -> None:
        """Count what one request had computed in a batch that began at ``began`` and has just ended."""
        if began != self._batch.began:
            self._close_batch()
            # With overlapping steps a batch begins before the one before it has ended.
            self._batch = _Batch(began=began, counted_from=max(began, self._batch.ended))
        self._batch.num_tokens += num_tokens
        self._batch.ended = self._clock()

    def _close_batch(self) -> None:
        batch = self._batch
        if batch.began > 0.0:
            self.prefill.add(batch.num_tokens, batch.ended - batch.counted_from)

    @property
    def num_declined(self) -> int:
        """Loads and fetches that prefilling was expected to beat."""
        return self._loads.num_declined + self._fetches.num_declined

    def should_load(self, num_tokens: int) -> bool:
        """Whether to load so many tokens; counts those that are declined."""
        load_s, prefill_s = self.load.token_s, self.prefill.token_s
        return self._loads.take(load_s is not None and prefill_s is not None and load_s > prefill_s)

    def should_fetch(self, num_tokens: int) -> bool:
        """Whether to ask other hosts for so many tokens; counts what is declined."""
        fetch_s, prefill_s = self.fetch.token_s, self.prefill.token_s
        load_s = self.load.token_s or 0.0
        return self._fetches.take(fetch_s is not None and prefill_s is not None and fetch_s + load_s > prefill_s)

    def longest_fetch_s(self, num_tokens: int) -> float:
        """How long a call may wait for other hosts: as long as prefilling would take, where that is known."""
        prefill_s = self.prefill.token_s
        return UNKNOWN_FETCH_S if prefill_s is None else num_tokens * prefill_s
