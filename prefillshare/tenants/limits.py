"""How much a tenant may: buckets that fill by time."""

from collections.abc import Callable


class Bucket:
    """Fills by `rate_per_s` up to `capacity`, and is full at first; below zero it takes so much longer."""

    def __init__(self, rate_per_s: float, capacity: float, clock: Callable[[], float]) -> None:
        self.rate_per_s = rate_per_s
        self.capacity = capacity
        self._clock = clock
        self._level = capacity
        self._looked_at = clock()

    def wait_s(self, amount: float) -> float:
        """Return how long it takes until `amount` is there; 0 when it is."""
        self._fill()
        return max(amount - self._level, 0.0) / self.rate_per_s

    def take(self, amount: float) -> None:
        """Take `amount` out, whether or not it is there."""
        self._fill()
        self._level -= amount

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._level + (now - self._looked_at) * self.rate_per_s, self.capacity)
        self._looked_at = now
