"""What a process counts while it uses a store."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_FORGETS = 0.9
"""Share of the past that is kept with each measurement: a speed is that of the last dozen calls."""


@dataclass(slots=True)
class Speed:
    """Bytes per second, over the last calls."""

    num_bytes: float = 0.0
    seconds: float = 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.num_bytes / self.seconds if self.seconds > 0 else 0.0

    @contextmanager
    def measured(self, num_bytes: int) -> Iterator[None]:
        """Measure what moves that many bytes."""
        started = time.perf_counter()
        yield
        self.num_bytes = _FORGETS * self.num_bytes + num_bytes
        self.seconds = _FORGETS * self.seconds + time.perf_counter() - started


@dataclass(slots=True)
class Counts:
    """Sums since the process attached.

    Without a lock, which a child that is forked at the wrong moment would find held for ever: two threads that add at
    the same time may count once.
    """

    hit: int = 0
    missed: int = 0
    written: int = 0
    refused: int = 0
    damaged: int = 0
    promoted: int = 0
    demoted: int = 0
    failures: int = 0
    evicted: dict[str, int] = field(default_factory=dict)
    """By medium."""
