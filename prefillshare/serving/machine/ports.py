"""Addresses to listen on: checked before anything slow starts."""

import contextlib
import errno
import random
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefillshare.contract import LAST_PORT
from prefillshare.errors import ConfigError, LaunchError
from prefillshare.transport_ports import RANGE_VARIABLE, read_transport_ports

_PORTS = range(10000, LAST_PORT + 1)
_MIN_PORTS = 2000
_MAX_TRIES = 200
_held: dict[int, list[socket.socket]] = {}
"""What holds the ports of this process, which has one set of them, whoever in it asks: until they are released."""


def check_address(host: str, port: int) -> None:
    """Make sure that a server can listen on host:port now, and still can when it has started.

    Effects: holds the port until it is released, so that no outgoing connection of the machine gets it: a server starts
    for minutes. One that sets SO_REUSEADDR, as all of ours do, can listen there all the same.
    Raises: ConfigError when this machine has no such address, LaunchError when it cannot be had now.
    """
    check_port(port)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"host {host!r} cannot be resolved: use 127.0.0.1, or 0.0.0.0 for all interfaces") from None
    family, kind, protocol, _, address = found[0]
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
        holder = _bind(socket.socket(family, kind, protocol), address)
    except OSError as error:
        raise _explain(error, host, port) from None
    _held.setdefault(port, []).append(holder)


def check_port(port: int) -> None:
    """Raise ConfigError unless there is such a port."""
    if not 1 <= port <= LAST_PORT:
        raise ConfigError(f"port {port} does not exist: choose one from 1 to {LAST_PORT}")


def free_port(host: str = "127.0.0.1", among: Sequence[int] | None = None) -> int:
    """Return a port that nobody listens on, and that stays this process's own while it runs; `among` limits which.

    The kernel hands out ports of its ephemeral range to every outgoing connection, so one taken from there may be
    gone before a slow server binds it: ports come from outside of that range, and of that which KV transport has.
    Effects: holds the UDP port of the same number until it is released or this process ends, which tells others that
    it is given; and the port itself where outgoing connections could get it, because `among` is in their range.
    Raises: LaunchError when there is none.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    transport = read_transport_ports()
    candidates = [port for port in (usual_ports() if among is None else among) if port not in transport]
    for port in random.SystemRandom().sample(candidates, min(_MAX_TRIES, len(candidates))):
        if _is_free(family, host, port) and _hold(family, host, port):
            return port
    where = host if among is None else f"{host} from {among[0]} to {among[-1]}"
    beside = f" outside of {RANGE_VARIABLE}={transport[0]}-{transport[-1]}" if transport else ""
    raise LaunchError(f"no free port was found on {where}{beside}: stop what listens there, or name others")


def usual_ports() -> list[int]:
    """Return the ports that free ones are chosen from."""
    ephemeral = _read_ephemeral_ports()
    ports = [port for port in _PORTS if port not in ephemeral]
    return ports if len(ports) >= _MIN_PORTS else list(_PORTS)


def _read_ephemeral_ports() -> range:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
        return range(int(low), int(high) + 1)
    except (OSError, ValueError):
        return range(32768, 61000)  # Linux's default


def _is_free(family: int, host: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _hold(family: int, host: str, port: int) -> bool:
    holders: list[socket.socket] = []
    kinds = (socket.SOCK_DGRAM, socket.SOCK_STREAM) if port in _read_ephemeral_ports() else (socket.SOCK_DGRAM,)
    try:
        for kind in kinds:
            holders.append(_bind(socket.socket(family, kind), (host, port)))
    except OSError:
        for holder in holders:
            holder.close()
        return False
    _held.setdefault(port, []).extend(holders)
    return True


def _bind(holder: socket.socket, address: Any) -> socket.socket:
    """Bind without listening: a server that sets SO_REUSEADDR can listen there all the same.

    Raises: OSError when somebody else has it.
    """
    try:
        if holder.type == socket.SOCK_STREAM:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(address)
    except OSError:
        holder.close()
        raise
    return holder


def release(ports: Iterable[int]) -> None:
    """Let others have ports that this process held."""
    for port in ports:
        for holder in _held.pop(port, ()):
            holder.close()


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Let others have the ports that were chosen in the block when it fails: nobody knows of them then."""
    before = set(_held)
    try:
        yield
    except BaseException:
        release(_held.keys() - before)
        raise


def client_host(host: str) -> str:
    """Return the host that a client on this machine connects to when a server listens on `host`."""
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    return wildcard.get(host) or (f"[{host}]" if ":" in host else host)


def _explain(error: OSError, host: str, port: int) -> ConfigError | LaunchError:
    if error.errno == errno.EADDRINUSE:
        return LaunchError(f"port {port} on {host} is in use: stop what listens there, or choose another with --port")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"host {host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all interfaces"
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} may only be used by root: choose one above 1023 with --port")
    return LaunchError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --host or --port")
