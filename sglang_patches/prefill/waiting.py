"""A scheduler that waits for others (a hand-off, a compiled grammar) pauses instead of asking without end.

SGLang's loop asks its queues again at once when no batch can run and requests still wait, which takes a whole core. On
a machine with few cores that core is the one the prefill worker needs to end the wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LONGEST_S = 0.005
GAP_S = 0.01
_SHARE = 0.05
_WAIT_SINCE, _LAST = "__prefillshare_waits_since__", "__prefillshare_waited_until__"


def wrap_on_idle(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Scheduler.on_idle`: called each round in which no batch runs."""

    def on_idle(scheduler: Any) -> None:
        original(scheduler)
        if not scheduler.is_fully_idle():
            time.sleep(pause(scheduler, time.monotonic()))
            setattr(scheduler, _LAST, time.monotonic())

    return on_idle


def pause(scheduler: Any, now: float) -> float:
    """Seconds to pause: a twentieth of the wait so far, so that no wait gets longer by more, and 5 ms at most.

    A gap of 10 ms since the last pause means that a batch has run: another wait begins.
    """
    last = getattr(scheduler, _LAST, None)
    if last is None or now - last > GAP_S:
        setattr(scheduler, _WAIT_SINCE, now)
    waited: float = now - getattr(scheduler, _WAIT_SINCE)
    return min(LONGEST_S, waited * _SHARE)
