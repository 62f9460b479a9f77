"""Requests outside of calls that any prefill worker can answer: the first one that does."""

from collections.abc import Callable
from typing import TypeVar

from prefillshare.errors import AnswerError
from prefillshare.routing.errors import UnavailableError, WorkerFailedError
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.leg import LegFailedError

T = TypeVar("T")


async def ask_prefill_workers(
    parts: Parts,
    path: str,
    take: Callable[[int, bytes], T | None],
    *,
    method: str = "GET",
    body: bytes = b"",
    timeout_s: float,
    why: str,
) -> T:
    """Return what `take` makes of status and body of the first answer that it takes; it may raise AnswerError.

    Raises: UnavailableError where no worker answers, with `why` that matters; WorkerFailedError where those that do say
    what cannot be read.
    """
    failure: LegFailedError | None = None
    for worker in parts.pool.prefill():
        if not worker.is_available:
            continue
        try:
            taken = take(*await parts.client.fetch(worker, path, method=method, body=body, timeout_s=timeout_s))
        except AnswerError as error:
            failure = LegFailedError(worker, f"{error} ({path})")
            parts.health.record_failure(failure)
            continue
        except OSError:
            continue
        if taken is not None:
            return taken
    if failure is not None:
        raise WorkerFailedError(str(failure))
    raise UnavailableError(f"no prefill worker is up, and only those {why}: try again later")
