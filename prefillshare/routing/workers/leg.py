"""One request to one worker, as part of a call, and how it fails by the worker's fault."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefillshare.errors import PrefillShareError
from prefillshare.routing.workers.worker import Worker


@dataclass(slots=True, kw_only=True)
class Leg:
    """One request to one worker."""

    worker: Worker
    """Where it goes."""
    path: str
    """Path at the worker."""
    body: bytes
    """JSON body."""
    rids: tuple[str, ...]
    """Request ids by which the worker can be told to abort it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """HTTP headers beside the call's own."""
    read: Callable[[bytes], Any] | None = None
    """What the router itself reads of a whole answer, AnswerError where it is not there; None where it is passed on as
    it came."""


class LegFailedError(PrefillShareError):
    """A worker failed by its own fault: another attempt may help."""

    def __init__(
        self,
        worker: Worker,
        what: str,
        *,
        is_unreachable: bool = False,
        is_broken_off: bool = False,
        counts: bool = True,
    ) -> None:
        super().__init__(f"{worker.spec.kind} {worker.id} {what}")
        self.worker = worker
        self.is_unreachable = is_unreachable
        """Whether nobody listens there, so that no other call need try."""
        self.is_broken_off = is_broken_off
        """Whether the worker ended in the middle of the call, possibly because of it."""
        self.counts = counts
        """Whether the breaker hears of it."""
