"""Who holds a node of the prefix index, in little memory: most nodes have few holders, and neighbours have the same.

Up to `MAX_SHARED` holders are a tuple, never changed, which all nodes of a branch share. More are a set of the node's
own, as a system prompt's that every worker holds.
"""

from collections.abc import Iterable

MAX_SHARED = 8

Holders = tuple[str, ...] | set[str]

NOBODY: Holders = ()


def with_added(holders: Holders, worker: str) -> Holders:
    """Return `holders` and `worker`; a set is changed in place."""
    if worker in holders:
        return holders
    if isinstance(holders, set):
        holders.add(worker)
        return holders
    return (*holders, worker) if len(holders) < MAX_SHARED else {*holders, worker}


def without(holders: Holders, worker: str) -> Holders:
    """Return `holders` without `worker`; a set is changed in place."""
    if isinstance(holders, tuple):
        return tuple(holder for holder in holders if holder != worker)
    holders.discard(worker)
    return tuple(holders) if len(holders) < MAX_SHARED // 2 else holders


def copied(holders: Holders) -> Holders:
    """Return the same holders for another node."""
    return set(holders) if isinstance(holders, set) else holders


class Sharing:
    """Keeps equal tuples of one branch one object, while a worker is added or taken along it."""

    def __init__(self) -> None:
        self._kept: dict[Holders, Holders] = {}

    def share(self, holders: Holders) -> Holders:
        """Return an equal tuple that was met before, if there is one."""
        return self._kept.setdefault(holders, holders) if isinstance(holders, tuple) else holders

    def add_all(self, holders: Holders, workers: Iterable[str]) -> Holders:
        """Return `holders` and `workers`."""
        for worker in workers:
            holders = with_added(holders, worker)
        return self.share(holders)
