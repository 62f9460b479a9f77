"""KV events are told at the worker's own address, to routers of its deployment.

Target: ``sglang.srt.disaggregation.kv_events.ZmqEventPublisher._socket_setup``
Why: the stock publisher listens on every address of the machine or on none: an endpoint without ``*`` it connects to.
    And it tells them to everybody.
How: for ``tcp://*:PORT``, ``*`` is the address that SGLANG_HOST_IP names, and the socket wants the deployment's CURVE
    keys. It is made before the stock method runs, which then only makes the one for replays.
Upstream: sglang/srt/disaggregation/kv_events.py:271 at 0.5.17.
Remove when: upstream can bind one address, and knows who listens.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from prefillshare.peer_keys import secure_listener
from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.peers import own_keys
from sglang_patches.disaggregation.ports import check_is_free

if TYPE_CHECKING:
    from sglang.srt.disaggregation.kv_events import ZmqEventPublisher

_EVERYWHERE = "tcp://*:"


@wraps_upstream(
    "disaggregation.kv_events:ZmqEventPublisher._socket_setup",
    "7f6706781653ba20",
    "whoever reaches any address of the machine could read which prompts a worker holds",
)
def wrap_socket_setup(original: Callable[[ZmqEventPublisher], None]) -> Callable[[ZmqEventPublisher], None]:
    def _socket_setup(self: ZmqEventPublisher) -> None:
        host = os.environ.get("SGLANG_HOST_IP")
        if host and self._pub is None and self._endpoint.startswith(_EVERYWHERE):
            port = int(self._endpoint.removeprefix(_EVERYWHERE))
            check_is_free(host, port, "at which routers hear of KV events")
            self._pub = self._ctx.socket(zmq.PUB)
            if keys := own_keys():
                secure_listener(self._pub, keys)
            self._pub.set_hwm(self._hwm)
            self._pub.bind(f"tcp://{host}:{port}")
        original(self)

    return _socket_setup
