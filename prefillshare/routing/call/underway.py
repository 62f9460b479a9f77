"""A call on its way: what every attempt at it needs to know."""

import asyncio
from dataclasses import dataclass
from typing import NoReturn

from prefillshare.observe.observer import Observed
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.caller import Caller
from prefillshare.routing.errors import CallTimeoutError
from prefillshare.routing.tracing import CallSpan
from prefillshare.routing.workers.leg import LegFailedError
from prefillshare.routing.workers.worker import Worker


@dataclass(slots=True, kw_only=True)
class Underway:
    """One call between the client's request and the end of its answer."""

    caller: Caller
    """Who gets the answer."""
    call: Call
    """What it asks for."""
    observed: Observed
    """What is counted of it."""
    span: CallSpan
    """Its trace, and the headers of it that both legs are sent."""
    loop: asyncio.AbstractEventLoop
    """The loop that answers it: in Python 3.11 asking for it costs a system call."""
    deadline: float
    """When it must be over, in the loop's time."""


def note_silence(worker: Worker, limit_s: float) -> LegFailedError:
    """Return the failure of a worker that did not answer in time."""
    return LegFailedError(worker, f"sent nothing within {limit_s:g} s")


def give_up(cause: LegFailedError) -> NoReturn:
    """End a call for which there is no time to try another worker.

    Raises: CallTimeoutError.
    """
    raise CallTimeoutError(f"{cause}: the call was given up") from cause
