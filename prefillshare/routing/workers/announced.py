"""Workers that announce themselves: each repeats every few seconds that it is there, to every router.

So a router that was started again knows all of them within seconds, and one that no longer hears of a worker that does
not answer either forgets it: its machine is gone.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from prefillshare.routing.workers.spec import WorkerSpec

SILENT_S = 30.0
"""A worker that has not announced itself for so long has gone, unless it still answers."""
_MAX_DISMISSED = 1000


class Announcements:
    """Who announced itself when, and who was told to leave since."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._heard: dict[str, float] = {}
        self._dismissed: OrderedDict[str, WorkerSpec] = OrderedDict()

    def __contains__(self, worker_id: str) -> bool:
        """Whether a worker of that id announces itself."""
        return worker_id in self._heard

    def hear(self, spec: WorkerSpec) -> None:
        """Note that this worker has announced itself now."""
        self._heard[spec.id] = self._now()
        self._dismissed.pop(spec.id, None)

    def forget(self, worker_id: str) -> None:
        """Hear no more of a worker."""
        self._heard.pop(worker_id, None)

    def dismiss(self, spec: WorkerSpec) -> None:
        """Remember that this very worker was told to leave: it does not know so before it announces itself again."""
        if spec.id in self._heard:
            self.forget(spec.id)
            self._dismissed[spec.id] = spec
            while len(self._dismissed) > _MAX_DISMISSED:
                self._dismissed.popitem(last=False)

    def is_dismissed(self, spec: WorkerSpec) -> bool:
        """Whether this very worker was told to leave; one that was started anew under its name was not."""
        return self._dismissed.get(spec.id) == spec

    def silent(self) -> list[str]:
        """Ids that were not heard of for `SILENT_S`."""
        oldest = self._now() - SILENT_S
        return [worker_id for worker_id, heard_at in self._heard.items() if heard_at < oldest]
