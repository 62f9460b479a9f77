"""Who holds how much of a call's prompts, as the index finds it: from the longest prefix to the shortest.

A worker is not looked up before somebody asks for it: of a prefix that a thousand workers hold, all that is needed is
mostly that they do.
"""

from collections.abc import Collection, Sequence

Level = tuple[int, Collection[str]]
"""A length in bytes and who holds at least that much."""


class Matched:
    """Levels of different lengths, the longest first; a worker holds as much as the first level says that names it."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = levels

    def length_of(self, worker: str) -> int:
        """Return how many bytes `worker` holds."""
        for length, holders in self.levels:
            if worker in holders:
                return length
        return 0

    def as_dict(self) -> dict[str, int]:
        """Return how many bytes each worker holds, without those that hold none."""
        return {holder: length for length, holders in reversed(self.levels) for holder in holders}

    def with_length(self, worker: str, length: int) -> "Matched":
        """Return the same, with `worker` holding `length`, which is no less than before."""
        longer = [level for level in self.levels if level[0] > length]
        equal = [holder for at, holders in self.levels if at == length for holder in holders]
        shorter = [level for level in self.levels if level[0] < length]
        return Matched([*longer, (length, {worker, *equal}), *shorter])


def add_up(parts: Sequence[Matched]) -> Matched:
    """Return who holds how much of several prompts together."""
    if len(parts) == 1:
        return parts[0]
    lengths: dict[str, int] = {}
    for part in parts:
        for worker, length in part.as_dict().items():
            lengths[worker] = lengths.get(worker, 0) + length
    levels: dict[int, list[str]] = {}
    for worker, length in lengths.items():
        levels.setdefault(length, []).append(worker)
    return Matched(sorted(levels.items(), reverse=True))
