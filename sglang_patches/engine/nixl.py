"""A hand-off that nobody asks for ends after its time with NIXL, too.

Target: ``sglang.srt.disaggregation.nixl.conn.NixlKVSender``, ``__init__`` and ``poll``
Why: a request of a prefill worker waits until a decode worker says where its KV shall go. When that never happens
    (the decode leg was refused, or its worker died) Mooncake's sender gives up after
    ``SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT`` seconds; NIXL's waits for ever.
How: the clock that upstream has for it is started and looked at, as Mooncake's sender does.
Upstream: sglang/srt/disaggregation/nixl/conn.py:2703 and :2761 at 0.5.17.
Remove when: upstream's NIXL sender has the timeout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wrap_init(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.init_time = time.time()

    return __init__


def wrap_poll(original: Callable[[Any], int]) -> Callable[[Any], int]:
    def poll(self: Any) -> int:
        from sglang.srt.disaggregation.base.conn import KVPoll

        status = original(self)
        if status == KVPoll.Bootstrapping:
            timed_out: int | None = self._check_bootstrap_timeout()
            return status if timed_out is None else timed_out
        return status

    return poll
