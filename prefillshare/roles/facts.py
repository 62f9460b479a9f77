"""What one look at a deployment sees: each pool of equal workers, how long calls wait for it, who is in it."""

from collections.abc import Mapping
from dataclasses import dataclass

Kind = str | None
"""What a worker does: the decode module that it holds, None for a prefill worker."""


def name_kind(kind: Kind) -> str:
    """Return what people call workers of a kind."""
    return "prefill" if kind is None else kind


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLook:
    """One worker."""

    id: str
    """Its name."""
    is_up: bool
    """Whether it takes calls; one that starts, drains or is away does not."""
    calls: int
    """Calls that it works on: a decode worker those that it decodes, not those whose prompts are still prefilled."""
    age_s: float
    """How long it has been there."""
    can_move: bool
    """Whether somebody is there to start it in another role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLook:
    """All workers of one kind."""

    wait_s: float
    """How long a call that came now would wait for one of them."""
    workers: tuple[WorkerLook, ...]
    """Who they are."""

    @property
    def is_whole(self) -> bool:
        """Whether all of them take calls: a pool that somebody is about to come back to looks busier than it is."""
        return bool(self.workers) and all(worker.is_up for worker in self.workers)

    @property
    def has_any(self) -> bool:
        """Whether anybody takes calls."""
        return any(worker.is_up for worker in self.workers)

    @property
    def num_calls(self) -> int:
        """Calls that all of them work on."""
        return sum(worker.calls for worker in self.workers)

    @property
    def num_busy(self) -> int:
        """Workers that work on any call."""
        return sum(worker.calls > 0 for worker in self.workers)


Look = Mapping[Kind, PoolLook]
"""One look: every pool by its kind."""
