"""A prefill worker says whose KV it has, to workers of its deployment.

Target: ``sglang.srt.disaggregation.common.conn.CommonKVBootstrapServer._setup_routes``
Why: the stock hand-shake compares page size and KV dtype only. KV of another base has the same shape, and would be
    decoded into nonsense without any error (I6). And the server answers whoever asks. Where its port is in use, it
    ends in its thread with a line in the log, and the worker starts without it: no hand-off ever begins.
How: one route more on the server that decode workers ask anyway (:mod:`sglang_patches.disaggregation.handshake`), and a
    look at each request before any route (:mod:`sglang_patches.disaggregation.peers`). First, in the thread that
    makes the worker, a look at the port.
    A method patch: the servers of NIXL and of Mooncake are subclasses, which a class bound in its place would miss.
Upstream: sglang/srt/disaggregation/common/conn.py:1575 at 0.5.17.
Remove when: upstream compares what the KV was made with, and knows who asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.handshake import ROUTE, answer_with_identity
from sglang_patches.disaggregation.peers import refuse_strangers
from sglang_patches.disaggregation.ports import check_is_free

if TYPE_CHECKING:
    from sglang.srt.disaggregation.common.conn import CommonKVBootstrapServer


@wraps_upstream(
    "disaggregation.common.conn:CommonKVBootstrapServer._setup_routes",
    "50baa9f5ee2ddb61",
    "decode workers could not tell prefill modules apart",
)
def wrap_setup_routes(original: Callable[[CommonKVBootstrapServer], None]) -> Callable[[CommonKVBootstrapServer], None]:
    def _setup_routes(self: CommonKVBootstrapServer) -> None:
        check_is_free(self.host, self.port)
        original(self)
        self.app.router.add_get(ROUTE, answer_with_identity)
        refuse_strangers(self.app)

    return _setup_routes
