"""Workers in an order that is kept up to date: one that changes is moved, the others are not looked at.

The list is a plain one. Moving an entry shifts those behind it, which for a thousand workers takes less than finding
its place does.
"""

from bisect import bisect_left, insort
from collections.abc import Callable

from prefillshare.routing.workers.worker import Worker

Key = tuple[float, ...]
Entry = tuple[Key, int, Worker]
"""A worker by its key; of equal ones the one that joined first, whose number is unique: workers are never compared."""


class Ranking:
    """Workers by a key, the least first."""

    def __init__(self, key: Callable[[Worker], Key]) -> None:
        self._key = key
        self._entry_of: dict[str, Entry] = {}
        self.entries: list[Entry] = []

    def put(self, worker: Worker, number: int) -> None:
        """Give `worker`, the `number`-th that joined, its place."""
        key = self._key(worker)
        before = self._entry_of.get(worker.id)
        if before is not None:
            if before[0] == key:
                return
            del self.entries[bisect_left(self.entries, before)]
        entry = self._entry_of[worker.id] = (key, number, worker)
        insort(self.entries, entry)

    def remove(self, worker: Worker) -> None:
        """Take `worker` out, if it is there."""
        entry = self._entry_of.pop(worker.id, None)
        if entry is not None:
            del self.entries[bisect_left(self.entries, entry)]

    def entry_of(self, worker_id: str) -> Entry | None:
        """Return the entry of the worker of that id, if it is there."""
        return self._entry_of.get(worker_id)

    def find(self, key: Key) -> int:
        """Return how many entries have a lesser key than `key`; a key that begins like it and goes on is greater."""
        return bisect_left(self.entries, (key,))
