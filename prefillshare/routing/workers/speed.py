"""How fast a prefill worker prefills and how much it still has to do, from the calls it answered."""

import time
from collections.abc import Callable

_DECAY = 0.8
_MIN_SAMPLE_TOKENS = 32


class PrefillSpeed:
    """Prefill speed and backlog of one worker.

    A worker computes several calls at once, so one call's duration says little. What counts is the time since the
    worker last finished something, or since it was given work: in that time it computed this call's tokens.
    """

    def __init__(
        self,
        tokens_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_changed` hears when speed or backlog is about to change."""
        self._tokens = tokens_per_s
        self._seconds = 1.0
        self._clock = clock
        self._on_changed = on_changed
        self._last_progress = 0.0
        self._left_tokens = 0.0
        self._left_at = 0.0
        self.pending_tokens = 0.0
        self.tokens_elsewhere = 0.0
        """What it has to compute for calls of other routers."""

    @property
    def tokens_per_s(self) -> float:
        """Observed speed, recent calls counting most."""
        return self._tokens / self._seconds

    @property
    def wait_s(self) -> float:
        """Estimated time until the work given so far is done."""
        return (self.pending_tokens + self.tokens_elsewhere) / self.tokens_per_s

    @property
    def backlog_s(self) -> float:
        """Estimated time for which it has to compute, without those who only wait for their hand-off.

        It computes what it was given at its speed, whatever becomes of it afterwards.
        """
        left = self._left_tokens - (self._clock() - self._left_at) * self.tokens_per_s
        return max(0.0, left) / self.tokens_per_s

    def begin(self, expected_tokens: float) -> float:
        """Count a call with so many tokens to compute as sent; return when, for `finish`."""
        now = self._clock()
        self._set_left(now, self.backlog_s * self.tokens_per_s + expected_tokens)
        self.pending_tokens += expected_tokens
        self._on_changed()
        return now

    def finish(
        self,
        expected_tokens: float,
        computed_tokens: int | None,
        started: float,
        *,
        computing_s: float | None = None,
        handoff_s: float = 0.0,
    ) -> None:
        """Count the call as ended; `computed_tokens` is None when it failed or did not say.

        It is no speed of the worker's how long KV waits for room at the decode worker, and its way there: `computing_s`
        is how long the computation took, with the wait for it, and `handoff_s` what came after it, as far as told.
        """
        now = self._clock()
        self.pending_tokens = max(0.0, self.pending_tokens - expected_tokens)
        self._set_left(now, min(self.backlog_s * self.tokens_per_s, self.pending_tokens))
        self._on_changed()
        ended = now - handoff_s
        begun = started if computing_s is None else max(started, ended - computing_s)
        seconds = ended - max(begun, self._last_progress)
        self._last_progress = max(ended, self._last_progress)
        if computed_tokens is None or computed_tokens < _MIN_SAMPLE_TOKENS or seconds <= 0:
            return
        self._tokens = self._tokens * _DECAY + computed_tokens
        self._seconds = self._seconds * _DECAY + seconds

    def _set_left(self, now: float, tokens: float) -> None:
        self._left_tokens, self._left_at = tokens, now
