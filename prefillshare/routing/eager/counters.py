"""What becomes of the jobs that follow answers."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class EagerCounters:
    """Numbers since the router started; a job ends in one of the first four ways."""

    done: int = 0
    """Jobs whose prompt is in the prefill worker's cache."""
    dropped: int = 0
    """Jobs that gave way: too many waited, or the workers had calls to do."""
    cancelled: int = 0
    """Jobs that the session's next call came before, which computes the same."""
    failed: int = 0
    """Jobs that a worker refused or failed."""
    pushed: int = 0
    """Of those done, jobs whose KV went on to the decode worker of the module that is expected next."""
