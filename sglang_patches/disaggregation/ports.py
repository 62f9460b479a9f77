"""Which ports the listener of a worker's hand-offs may take: those that UCX was given, for firewalls between hosts.

Both listen for other workers of the deployment, bind at once, and take another port where one is in use. The port at
which decode workers ask a prefill worker is known to others before it listens: there is no other one, so it is checked.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Any

import zmq

RANGE_VARIABLE = "UCX_TCP_PORT_RANGE"
"""UCX's own: the first and the last port, such as 20500-20999; unset, or 0, any free one is taken."""
_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")
_MAX_TRIES = 1000


class LimitedContext:
    """A context whose sockets, bound to a random port, take one of `ports`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], ports: range) -> None:
        self._context = context
        self._ports = ports

    def socket(self, socket_type: int) -> zmq.Socket[bytes]:
        """Return a new socket of the context."""
        ports = self._ports

        class LimitedSocket(zmq.Socket[bytes]):
            def bind_to_random_port(self, addr: str, *args: Any, **kwargs: Any) -> int:
                # What is asked for as `args` is not used: SGLang names an address and no ports.
                return super().bind_to_random_port(addr, ports[0], ports[-1] + 1, _MAX_TRIES)

        return self._context.socket(socket_type, socket_class=LimitedSocket)


def limit_ports(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Context[zmq.Socket[bytes]] | LimitedContext:
    """Return what makes sockets of `context`, on the ports that UCX was given if it was given any."""
    found = _RANGE.fullmatch(os.environ.get(RANGE_VARIABLE, ""))
    return LimitedContext(context, range(int(found[1]), int(found[2]) + 1)) if found else context


def check_is_free(host: str, port: int, purpose: str = "at which decode workers ask for hand-offs") -> None:
    """Raises: OSError when nobody could listen there, with the `purpose` of the port, the reason and the way out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server itself: a port that only its own former life has left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise OSError(
                f"port {port} on {host}, {purpose}, cannot be had ({error.strerror}): end what listens there, or "
                "launch again, which takes another one"
            ) from None
