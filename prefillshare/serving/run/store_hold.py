"""The launch's hold on the store of its deployment: engines come and go, the store stays as long as it is held.

A launch that is stopped gives the memory back. One whose engines failed, or that was killed, leaves it to the next
launch of the same file, which so begins warm; a launch of any file removes what nobody holds.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefillshare.serving.plan.processes import PlannedWorker

if TYPE_CHECKING:
    from prefillshare.store import StoreOwner


class StoreHold:
    """Holds the store that the planned workers share, if they have one."""

    def __init__(self, planned: Sequence[PlannedWorker]) -> None:
        """Take the store, and remove those of launches that are gone.

        Raises: StoreError.
        """
        self._owner = _take(planned)

    def end(self) -> None:
        """Give the memory back, once no engine runs any more; what disk has room for is kept there."""
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.end()


def _take(planned: Sequence[PlannedWorker]) -> "StoreOwner | None":
    settings = next((worker.store for worker in planned if worker.store is not None), None)
    if settings is None:
        return None
    from prefillshare.store import StoreOwner

    return StoreOwner(settings)
