"""Which ports the listener of a worker's hand-offs may take: those that UCX was given, for firewalls between hosts.

Both listen for other workers of the deployment, bind at once, and take another port where one is in use. The port at
which decode workers ask a prefill worker is known to others before it listens: there is no other one, so it is checked.
"""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress
from typing import Any

import zmq

from prefillshare.transport_ports import RANGE_VARIABLE, read_transport_ports


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
                host = addr.removeprefix("tcp://").strip("[]")
                # Not by `random`, which SGLang seeds: workers of one host would all try the same ports.
                for port in random.SystemRandom().sample(ports, len(ports)):
                    if not _is_held(host, port):
                        with suppress(zmq.ZMQError):  # taken just now: the next one
                            self.bind(f"{addr}:{port}")
                            return port
                raise OSError(
                    errno.EADDRINUSE,
                    f"no port of {RANGE_VARIABLE}={ports[0]}-{ports[-1]} is free on {host}: name more of them",
                )

        return self._context.socket(socket_type, socket_class=LimitedSocket)


def _is_held(host: str, port: int) -> bool:
    """Whether a port belongs to somebody, who need not listen yet: ZeroMQ alone would take it from a slow starter."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind(("" if host == "*" else host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def limit_ports(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Context[zmq.Socket[bytes]] | LimitedContext:
    """Return what makes sockets of `context`, on the ports that UCX was given if it was given any."""
    ports = read_transport_ports()
    return LimitedContext(context, ports) if ports else context


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
