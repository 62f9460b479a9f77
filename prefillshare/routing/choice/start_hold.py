"""Whether a call waits for workers of which a router that has just started knows nothing yet.

Workers announce themselves every few seconds, and one that is known by then is `starting` until it has answered once. A
router that was started again would refuse all calls meanwhile, although its workers are as well as before. So it lets
them wait, for as long as workers need to make themselves known. What was found to be down is waited for no longer.
"""

from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.workers.group import Group
from prefillshare.routing.workers.pool import WorkerPool


class StartHold:
    """The first seconds of a router; whoever made it says when they are over."""

    def __init__(self, pool: WorkerPool, *, may_join: bool) -> None:
        """`may_join` says whether workers can come that the router was not told of."""
        self._pool = pool
        self._may_join = may_join

    def is_for(self, demand: Demand) -> bool:
        """Whether nothing is known against any worker that `demand` lacks."""
        needed = self._pool.groups_for(demand.module, is_prefill_only=demand.is_prefill_only)
        return all(group.is_available or self._is_unheard(group) for group in needed)

    def _is_unheard(self, group: Group) -> bool:
        return any(worker.state == "starting" for worker in group) or (self._may_join and len(group) == 0)
