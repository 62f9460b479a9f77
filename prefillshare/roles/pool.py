"""One pool over a window of looks: whether calls need another worker there, and whether it can do without one.

Between the two lies a gap, so that a worker that came is not dispensable at once, nor missed where it went:

    calls per worker     0 ......... half of busy_calls ......... busy_calls .......
                         dispensable, if so with one less         wanted
"""

import statistics
from collections import deque
from dataclasses import dataclass

from prefillshare.config.roles import Roles
from prefillshare.roles.facts import Kind, PoolLook

SPARE_SHARE = 0.5
"""Share of what would make a pool want another worker that is still calm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """What a window says of one pool."""

    wait_s: float
    """Shortest wait in the window: calls waited at least so long all the time."""
    calls_each: float
    """Fewest calls per worker in the window."""
    load: float
    """Mean work, as a share of what makes a pool want another worker, if it had one worker less; infinite for one."""
    excess: float
    """How far beyond its bound it was all the time; above 1, another worker is wanted."""

    @property
    def is_wanting(self) -> bool:
        """Whether another worker is wanted."""
        return self.excess > 1

    @property
    def is_calm(self) -> bool:
        """Whether one worker less would do."""
        return self.excess < SPARE_SHARE and self.load <= SPARE_SHARE


class PoolWindow:
    """The last looks at one pool, all of them at the same workers."""

    def __init__(self, kind: Kind, roles: Roles) -> None:
        self._bound_s = (roles.prefill_wait_ms if kind is None else roles.decode_wait_ms) / 1000
        self._is_prefill = kind is None
        self._busy_calls = roles.busy_calls
        self._window_s = roles.window_s
        self._looks: deque[tuple[float, PoolLook]] = deque()
        self._since: float | None = None

    def add(self, now: float, look: PoolLook) -> None:
        """Take a look in. Who joined, left or was away makes the window begin anew: what a cold start or a crash does
        to the figures is no load."""
        if self._looks and _who(self._looks[-1][1]) != _who(look):
            self._looks.clear()
        if not self._looks:
            self._since = now
        self._looks.append((now, look))
        while now - self._looks[0][0] > self._window_s:
            self._looks.popleft()

    def clear(self) -> None:
        """Begin anew."""
        self._looks.clear()

    def judge(self, now: float) -> Pressure | None:
        """Return what the window says; None while it is not full, or somebody of the pool is away."""
        if not self._looks or self._since is None or now - self._since < self._window_s:
            return None
        looks = [look for _, look in self._looks]
        if not looks[-1].is_whole:
            return None
        number = len(looks[-1].workers)
        wait_s = min(look.wait_s for look in looks)
        calls_each = min(look.num_calls for look in looks) / number
        excess = wait_s / self._bound_s
        if not self._is_prefill:
            excess = max(excess, calls_each / self._busy_calls)
        return Pressure(wait_s=wait_s, calls_each=calls_each, load=self._load_without(looks, number - 1), excess=excess)

    def _load_without(self, looks: list[PoolLook], number: int) -> float:
        """A prefill worker computes one prompt after the other, so what counts is whether it works at all; a decode
        worker takes many calls at a time."""
        if not number:
            return float("inf")
        if self._is_prefill:
            busy = statistics.fmean(look.num_busy for look in looks) / number
            return max(busy, statistics.fmean(look.wait_s for look in looks) / self._bound_s)
        calls = statistics.fmean(look.num_calls for look in looks) / number
        return max(calls / self._busy_calls, statistics.fmean(look.wait_s for look in looks) / self._bound_s)


def _who(look: PoolLook) -> frozenset[tuple[str, bool]]:
    return frozenset((worker.id, worker.is_up) for worker in look.workers)
