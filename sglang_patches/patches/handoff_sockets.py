"""Workers of one deployment talk of hand-offs among themselves.

Target: ``get_zmq_socket_on_host`` and ``requests``, both as ``sglang.srt.disaggregation.common.conn`` names them
Why: whoever reaches the socket on which a worker hears others can abort hand-offs, name memory to write KV to, and end
    the thread that listens; whoever reaches the bootstrap server can read where workers listen, and register others.
How: the listener gets CURVE keys of the deployment before it is bound, and its context and that of receivers get those
    of a client, which every socket that they make afterwards takes over. HTTP requests carry a token, which the
    bootstrap server wants (:mod:`sglang_patches.patches.bootstrap_server`). It takes a port of those that UCX was
    given, which else would be any: firewalls must let it through. Not by classes: those of all transports
    stand on the same module.
Upstream: sglang/srt/disaggregation/common/conn.py:201, :765, :1409 at 0.5.17.
Remove when: upstream authenticates workers.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from prefillshare.peer_keys import secure_client, secure_listener
from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.peers import KnownRequests, own_keys
from sglang_patches.disaggregation.ports import limit_ports

if TYPE_CHECKING:
    import zmq

    Bind = Callable[..., tuple[int, zmq.Socket[bytes]]]

_STRANGERS = "strangers could end hand-offs and have KV written where they like"


@wraps_upstream("disaggregation.common.conn:get_zmq_socket_on_host", "125d95ff52fc3283", _STRANGERS)
def wrap_get_zmq_socket_on_host(original: Bind) -> Bind:
    def get_zmq_socket_on_host(
        context: zmq.Context[zmq.Socket[bytes]], socket_type: int, host: str | None = None
    ) -> tuple[int, zmq.Socket[bytes]]:
        from sglang.srt.disaggregation.common.conn import CommonKVReceiver

        keys = own_keys()
        if keys is None:
            return original(limit_ports(context), socket_type, host=host)
        # The one listener of a worker's manager, made first: all other sockets of both contexts are clients.
        secure_listener(context, keys)
        bound = original(limit_ports(context), socket_type, host=host)
        for clients in (context, CommonKVReceiver._ctx):
            secure_client(clients, keys)
        return bound

    return get_zmq_socket_on_host


@wraps_upstream(
    "disaggregation.common.conn:requests", "06185522e4085460", "the bootstrap server would refuse its own workers"
)
def wrap_requests(original: ModuleType) -> KnownRequests:
    return KnownRequests(original)


RELIED_ON = {
    "disaggregation.common.conn:CommonKVManager._connect": (
        "fa3b644d45e62999",
        "its sockets are made by the manager's context",
    ),
    "disaggregation.common.conn:CommonKVReceiver._connect": (
        "820a30825f7c21d5",
        "its sockets are made by the class' context",
    ),
}
