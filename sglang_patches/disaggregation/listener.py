"""A prefill worker hears its decode workers for as long as it lives.

Target: ``sglang.srt.disaggregation.nixl.conn.NixlKVManager._start_bootstrap_thread``
Why: one thread reads everything that decode workers say: where their KV lies, where a call's KV shall go, what was
    aborted. It ends at the first message that it cannot use: foreign traffic, a decode worker that has died since, a
    call that the scheduler's thread forgets at that moment (rooms are looked up without a lock). The worker goes on
    answering its health checks, and no hand-off begins ever again.
How: a thread that has ended is started again. The message is lost, and with it at most the call that it was about.
Upstream: sglang/srt/disaggregation/nixl/conn.py:2631 at 0.5.17.
Remove when: upstream's thread outlives a message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

NAME = "(bootstrap_thread)"
"""End of the thread's name: Python's own way to name a thread after its function."""
PAUSE_S = 0.05

logger = logging.getLogger(__name__)


def wrap_start_bootstrap_thread(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def _start_bootstrap_thread(self: Any) -> None:
        threading.Thread(target=_keep, args=(partial(original, self),), name="hand-off listener", daemon=True).start()

    return _start_bootstrap_thread


def _keep(start: Callable[[], None]) -> None:
    while True:
        for thread in _started(start):
            thread.join()
        logger.error("A message of a decode worker could not be used (see above): listening to the next one.")
        time.sleep(PAUSE_S)


def _started(start: Callable[[], None]) -> list[threading.Thread]:
    before = threading.enumerate()
    start()
    return [thread for thread in threading.enumerate() if thread not in before and thread.name.endswith(NAME)]
