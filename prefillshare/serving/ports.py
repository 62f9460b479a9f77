"""Addresses to listen on: checked before anything slow starts."""

import errno
import socket

from prefillshare.errors import LaunchError


def check_address(host: str, port: int) -> None:
    """Make sure that a server can listen on host:port now.

    Raises: LaunchError saying what is wrong with the address.
    """
    check_port(port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise LaunchError(f"host {host!r} cannot be resolved: use 127.0.0.1, or 0.0.0.0 for all interfaces") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise LaunchError(_why(error, host, port)) from None


def check_port(port: int) -> None:
    """Raise LaunchError unless there is such a port."""
    if not 1 <= port <= 65535:
        raise LaunchError(f"port {port} does not exist: choose one from 1 to 65535")


def free_port(host: str = "127.0.0.1", unlike: int | None = None) -> int:
    """Return a port that was free a moment ago, and is not `unlike`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port = int(probe.getsockname()[1])
    return port if port != unlike else free_port(host, unlike)


def client_host(host: str) -> str:
    """Return the host that a client on this machine connects to when a server listens on `host`."""
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    return wildcard.get(host) or (f"[{host}]" if ":" in host else host)


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what listens there, or choose another with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host {host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all interfaces"
    if error.errno == errno.EACCES:
        return f"port {port} may only be used by root: choose one above 1023 with --port"
    return f"cannot listen on {host}:{port} ({error.strerror}): choose another --host or --port"
