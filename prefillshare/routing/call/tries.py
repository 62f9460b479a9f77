"""Which workers a call has met in vain, and whether it may meet others."""

from dataclasses import dataclass, field

from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.errors import WorkerFailedError
from prefillshare.routing.workers.leg import LegFailedError


@dataclass(slots=True, kw_only=True)
class Tries:
    """The tries of one call so far."""

    max_retries: int
    """Further tries that are allowed."""
    num_failed: int = 0
    """Tries that failed."""
    avoid: set[str] = field(default_factory=set)
    """Ids of workers that another try should not meet."""
    has_ended_a_worker: bool = False
    """Whether a worker ended in the middle of this call, perhaps because of it."""

    def record_failure(self, error: LegFailedError, pair: Pair) -> None:
        """Note that the try on `pair` failed.

        Raises: WorkerFailedError when it was the last.
        """
        self.num_failed += 1
        # A call during which two workers ended may be what ended them: a third must not follow.
        if self.num_failed > self.max_retries or (self.has_ended_a_worker and error.is_broken_off):
            raise WorkerFailedError(f"{error}; {_describe(self.num_failed)}") from None
        self.has_ended_a_worker |= error.is_broken_off
        # Of a failed hand-off nobody knows whose fault it was.
        self.avoid |= {error.worker.id} if error.counts else {worker.id for worker in pair.workers}


def _describe(num_failed: int) -> str:
    return "there was no further try" if num_failed == 1 else f"{num_failed} tries failed"
