"""A prefill worker hears its decode workers for as long as it lives.

One thread of upstream's reads everything that decode workers say: where their KV lies, where a call's KV shall go, what
was aborted. It ends at the first message that it cannot use: foreign traffic, a decode worker that has died since, a
call that the scheduler's thread forgets at that moment (rooms are looked up without a lock). The worker would go on
answering its health checks, and no hand-off begin ever again. So a thread that has ended is started again. The message
is lost, and with it at most the call that it was about.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

NAME = "(bootstrap_thread)"
"""End of the thread's name: Python's own way to name a thread after its function."""
PAUSE_S = 0.05
AGAIN_S = 1.0
"""Pause where this user may have no more threads."""

logger = logging.getLogger(__name__)


def keep_listening(start: Callable[[], None]) -> None:
    """Start upstream's thread with ``start``, and again whenever it has ended; returns at once."""
    threading.Thread(target=_keep, args=(start,), name="hand-off listener", daemon=True).start()


def _keep(start: Callable[[], None]) -> None:
    while True:
        try:
            threads = _start_threads(start)
        except RuntimeError as error:
            logger.error("Decode workers are not heard, and it is tried again: %s", error)
            time.sleep(AGAIN_S)
            continue
        # It never ends but by a message that it could not use; the socket, and what waits in it, stays.
        for thread in threads:
            thread.join()
        logger.error("A message of a decode worker could not be used (see above): listening to the next one.")
        time.sleep(PAUSE_S)


def _start_threads(start: Callable[[], None]) -> list[threading.Thread]:
    """What ``start`` starts; it does not hand its thread out, and threads of others may begin meanwhile."""
    before = threading.enumerate()
    start()
    return [thread for thread in threading.enumerate() if thread not in before and thread.name.endswith(NAME)]
