"""The launch's hold on the store of its deployment: engines come and go, the store stays as long as it is held.

A launch that is stopped gives the memory back. One whose engines failed, or that was killed, leaves it to the next
launch of the same file, which so begins warm; a launch of any file removes what nobody holds.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefillshare.serving.machine.logs import new_log_path
from prefillshare.serving.plan.processes import PlannedWorker

if TYPE_CHECKING:
    from prefillshare.store import StoreOwner, StoreSettings
    from prefillshare.store.remote.process import SharingProcess


class StoreHold:
    """Holds the store that the planned workers share, if they have one."""

    def __init__(self, planned: Sequence[PlannedWorker]) -> None:
        """Take the store, remove those of launches that are gone, and begin to share it with peers.

        Raises: StoreError.
        """
        settings = next((worker.store for worker in planned if worker.store is not None), None)
        self._owner = _take(settings)
        self._sharing: SharingProcess | None = None
        try:
            self._sharing = _share(settings)
        except BaseException:
            self.end()
            raise

    @property
    def sharing_pid(self) -> int | None:
        """Process id of what shares the store with peers; None without peers."""
        return self._sharing.pid if self._sharing is not None else None

    def step(self) -> None:
        """Look after what shares the store with peers."""
        if self._sharing is not None:
            self._sharing.step()

    def stop_sharing(self) -> None:
        """Serve no peer any more; the store stays."""
        sharing, self._sharing = self._sharing, None
        if sharing is not None:
            sharing.end()

    def end(self) -> None:
        """Give the memory back, once no engine runs any more; what disk has room for is kept there."""
        self.stop_sharing()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.end()


def _take(settings: "StoreSettings | None") -> "StoreOwner | None":
    if settings is None:
        return None
    from prefillshare.store import StoreOwner

    return StoreOwner(settings)


def _share(settings: "StoreSettings | None") -> "SharingProcess | None":
    if settings is None or not settings.has_peers:
        return None
    from prefillshare.store.remote.process import SharingProcess

    return SharingProcess(settings, new_log_path(f"{settings.name}.peers"))
