"""Where the processes of a deployment listen."""

import os
import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import psutil

_LISTENS = "0A"
_IS_UNIX_LISTENER = 0x10000


def family_of(pids: Iterable[int]) -> set[psutil.Process]:
    """The processes and all of their children."""
    first = [psutil.Process(pid) for pid in pids]
    return {member for parent in first for member in (parent, *parent.children(recursive=True))}


def listening(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Addresses and ports at which the processes and their children take TCP connections or UDP packets."""
    found = set()
    for process in family_of(pids):
        try:
            connections = process.net_connections(kind="inet")
        except psutil.NoSuchProcess:  # ended meanwhile
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN or (
                connection.type == socket.SOCK_DGRAM and not connection.raddr
            ):
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def beyond_loopback(addresses: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of the addresses that other machines may reach."""
    return {(host, port) for host, port in addresses if not ip_address(host).is_loopback}


def unix_listening(pids: Iterable[int]) -> set[str]:
    """Paths of the Unix sockets at which the processes and their children take connections; abstract ones with an @."""
    own = {inode for process in family_of(pids) for inode in _socket_inodes(process.pid)}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    # Number, references, protocol, flags, type, state, inode and, for one with a name, the name.
    return {
        fields[7] if len(fields) > 7 else "no name"
        for fields in lines
        if fields[6] in own and int(fields[3], 16) & _IS_UNIX_LISTENER
    }


def is_private(path: str) -> bool:
    """Whether only this user can come to the file."""
    folders = [folder.stat() for folder in Path(path).parents]
    return any(found.st_uid == os.getuid() and not found.st_mode & 0o077 for found in folders)


def tcp_listening_at(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports of all TCP listeners in the network namespace of a process."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTENS:
                address, port = local.split(":")
                found.add((str(_read_address(address)), int(port, 16)))
    return found


def _read_address(text: str) -> IPv4Address | IPv6Address:
    # Words of four bytes, each as this machine keeps numbers.
    words = [bytes.fromhex(word)[::-1] for word in re.findall("." * 8, text)]
    return IPv4Address(words[0]) if len(words) == 1 else IPv6Address(b"".join(words))


def _socket_inodes(pid: int) -> list[str]:
    links = []
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # ended meanwhile
        return []
    for descriptor in descriptors:
        try:
            links.append(os.readlink(descriptor))
        except OSError:  # closed meanwhile
            continue
    return [link.removeprefix("socket:[")[:-1] for link in links if link.startswith("socket:[")]
