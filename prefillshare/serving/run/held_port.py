"""The port of a router, held open by its supervisor while the router's process is started again.

The kernel takes connections meanwhile, and the new process answers them: clients wait a second or two where they would
be refused. What the old process had accepted is lost with it.
"""

import socket
from contextlib import suppress
from ipaddress import ip_address

from prefillshare.errors import LaunchError

_MAX_WAITING = 4096
"""Connections that the kernel takes before anybody accepts them; the router chooses its own number when it starts."""


class HeldPort:
    """One address; the socket is made when it is wanted, and again after it was let go."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None

    def descriptor(self) -> int | None:
        """Return the listening socket's descriptor; None where `host` is a name, which may mean several addresses.

        Raises: LaunchError when another program has the port.
        """
        if self._socket is None and _is_address(self._host):
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            try:
                self._socket = socket.create_server((self._host, self._port), family=family, backlog=_MAX_WAITING)
            except OSError as error:
                raise LaunchError(
                    f"{self._host}:{self._port} cannot be used ({error.strerror}): free it, or choose another port"
                ) from None
        return None if self._socket is None else self._socket.fileno()

    def let_go(self) -> None:
        """Refuse clients who come when no process listens."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(host))
    return False
