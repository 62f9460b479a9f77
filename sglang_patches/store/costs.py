"""Whether a load from the store beats prefilling: both are measured while the engine runs, and asked for each prompt.

A store on a slow disk, or a small model on a fast GPU, makes prefilling the cheaper way. What is declined is tried
again now and then, since the measure of loading would otherwise stay what it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable

DECAY = 0.8
"""What an earlier measure counts after one more."""
MIN_SAMPLE_TOKENS = 32
"""Fewer tokens say more of the way there and back than of the speed."""
DECLINED_BEFORE_TRIAL = 32
"""Loads declined in a row after which one is made all the same."""


class Pace:
    """Seconds per token of one kind of work, recent work counting most."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, num_tokens: int, seconds: float) -> None:
        """Count work that was done."""
        self._tokens = self._tokens * DECAY + num_tokens
        self._seconds = self._seconds * DECAY + seconds

    @property
    def token_s(self) -> float | None:
        """Seconds per token, None before anything was measured."""
        return self._seconds / self._tokens if self._tokens >= MIN_SAMPLE_TOKENS else None


class LoadCosts:
    """What a load and a prefill cost in one engine, and what was decided."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.load = Pace()
        self.prefill = Pace()
        self.num_declined = 0
        self._declined_in_a_row = 0
        self._clock = clock
        self._last_prefill_end = 0.0

    def finish_prefill(self, num_tokens: int, began: float) -> None:
        """Count a request's part of a batch that began at ``began`` and has ended; of its others, the rest is none."""
        now = self._clock()
        if began <= 0.0 or num_tokens <= 0:
            return
        self.prefill.add(num_tokens, now - max(began, self._last_prefill_end))
        self._last_prefill_end = now

    def should_load(self, num_tokens: int) -> bool:
        """Whether to load so many tokens; counts those that are declined."""
        load_s, prefill_s = self.load.token_s, self.prefill.token_s
        is_slower = load_s is not None and prefill_s is not None and load_s > prefill_s
        if not is_slower or self._declined_in_a_row >= DECLINED_BEFORE_TRIAL:
            self._declined_in_a_row = 0
            return True
        self._declined_in_a_row += 1
        self.num_declined += 1
        return False
