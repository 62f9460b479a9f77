"""Workers in an order that is kept up to date: one that changes is moved, the others are not looked at.

The list is a plain one. Moving an entry shifts those behind it, which for a thousand workers takes less than finding
its place does.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any

from prefillshare.routing.workers.worker import Worker

Key = tuple[float, ...]
Entry = tuple[Any, ...]
"""The parts of a key, then the number and the worker; of equal keys the one that joined first comes first, whose number
is unique: workers are never compared. One flat tuple, for entries are compared some fifty times per call."""


class Ranking:
    """Workers by a key, the least first."""

    def __init__(self, key: Callable[[Worker], Key]) -> None:
        self._key = key
        self._entry_of: dict[str, Entry] = {}
        self.entries: list[Entry] = []

    def put(self, worker: Worker, number: int) -> None:
        """Give `worker`, the `number`-th that joined, its place."""
        entry = (*self._key(worker), number, worker)
        before = self._entry_of.get(worker.id)
        if before is not None:
            if before == entry:
                return
            del self.entries[bisect_left(self.entries, before)]
        self._entry_of[worker.id] = entry
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
        return bisect_left(self.entries, key)
