"""Jobs of a scheduler that wait until nobody else does.

The newest is computed first: its conversation is the one that goes on soonest. So the oldest is also what is given up
where there are too many. One scheduler's thread reads and writes it; every rank has its own and hears of the same jobs
in the same order, so nothing here may depend on a clock.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass

MAX_JOBS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The start of a prompt that is to be in the tree."""

    rid: str
    """Request id."""
    tokens: array[int]
    """Token ids."""
    extra_key: str | None
    """Namespace of the user."""
    module: str | None
    """Decode module whose answer it holds, as in ``RequestState.decode_module``."""
    is_begun: bool = False
    """Whether a slice of it was computed: then the rest is, however short."""
    is_asked: bool = False
    """Whether the store was asked for it, where there is one."""
    http_worker_ipc: str | None = None
    """Which HTTP process asked, where there are several."""


class Backlog:
    """At most ``MAX_JOBS`` jobs, the newest first."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def push(self, job: Job) -> Job | None:
        """Add the newest; the job that is given up for it, if any."""
        self._jobs.append(job)
        return self._jobs.popleft() if len(self._jobs) > MAX_JOBS else None

    def pop(self) -> Job:
        """Take the newest."""
        return self._jobs.pop()

    def take(self, rid_prefix: str) -> list[Job]:
        """Take all whose id begins so."""
        taken = [job for job in self._jobs if job.rid.startswith(rid_prefix)]
        self._jobs = deque(job for job in self._jobs if not job.rid.startswith(rid_prefix))
        return taken

    def __len__(self) -> int:
        return len(self._jobs)
