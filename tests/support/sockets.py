"""Where the processes of a deployment listen."""

import socket
from collections.abc import Iterable
from ipaddress import ip_address

import psutil


def listening(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Addresses and ports at which the processes and their children take TCP connections or UDP packets."""
    first = [psutil.Process(pid) for pid in pids]
    found = set()
    for process in {member for parent in first for member in (parent, *parent.children(recursive=True))}:
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN or (
                connection.type == socket.SOCK_DGRAM and not connection.raddr
            ):
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def beyond_loopback(addresses: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of the addresses that other machines may reach."""
    return {(host, port) for host, port in addresses if not ip_address(host).is_loopback}
