"""Whether a call waits for workers of which a router that has just started knows nothing yet.

Workers announce themselves every few seconds, and one that is known by then is `starting` until it has answered once. A
router that was started again would refuse all calls meanwhile, although its workers are as well as before. So it lets
them wait, for as long as workers need to make themselves known. What was found to be down is waited for no longer.
"""

import time
from collections.abc import Callable

from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.workers.group import Group
from prefillshare.routing.workers.pool import WorkerPool


class StartHold:
    """The first seconds of a router."""

    def __init__(
        self, hold_s: float, pool: WorkerPool, *, may_join: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`may_join` says whether workers can come that the router was not told of."""
        self._pool = pool
        self._may_join = may_join
        self._now = now
        self._ends_at = now() + hold_s

    def is_on(self, demand: Demand) -> bool:
        """Whether nothing is known against any worker that `demand` lacks, and the router is young."""
        if self._now() >= self._ends_at:
            return False
        needed = self._pool.groups_for(demand.module, is_prefill_only=demand.is_prefill_only)
        return all(group.is_available or self._is_unheard(group) for group in needed)

    def _is_unheard(self, group: Group) -> bool:
        return any(worker.state == "starting" for worker in group) or (self._may_join and len(group) == 0)
