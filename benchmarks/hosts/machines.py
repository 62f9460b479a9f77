"""Hosts that are namespaces of this machine: each has a network, processes, a name and shared memory of its own.

    this machine          bridge, 10.213.N.254
                     /            |            \\
    hosts      10.213.N.1    10.213.N.2    10.213.N.3

A host is there for as long as its first process, which ends with this one: nothing is left but the bridge when this
process is killed, and the next network of that name takes its place. Root only.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROGRAMS = ("ip", "unshare", "nsenter", "bash")
_NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_TRIAL = "ip link add br0 type bridge && ip link add v0 type veth peer name v1 && mount -t tmpfs tmpfs /dev/shm"
# The first process of a host reaps what nobody else does (the shell does so while it reads), and ends when its
# standard input closes.
_INIT = 'mount -t tmpfs tmpfs /dev/shm && hostname "$0" && ip link set lo up && echo ready && read -r _'


def can_have_hosts() -> bool:
    """Whether this process may make namespaces, bridges and cables: as root, with the programs for it."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in _PROGRAMS):
        return False
    return subprocess.run(["unshare", *_NAMESPACES, "sh", "-c", _TRIAL], capture_output=True).returncode == 0


@dataclass(slots=True, kw_only=True)
class Host:
    """One of them."""

    name: str
    """Its host name."""
    address: str
    """Its address in the network of hosts."""
    link: str
    """This machine's end of its cable."""
    first: "subprocess.Popen[str]"
    """What entered the namespaces; its only child is the host's first process."""
    pid: int
    """The host's first process, as this machine counts."""
    folder: Path
    """Where its processes keep what outlives them."""

    def start(
        self, argv: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Run a program on the host; what it says goes to `log`."""
        inside = ["nsenter", "--target", str(self.pid), "--all", "--wd=" + os.getcwd(), "--", *argv]
        own = {"TMPDIR": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state"), **(variables or {})}
        with log.open("ab") as stream:
            return subprocess.Popen(
                inside, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )

    def processes(self) -> list[psutil.Process]:
        """Return what runs on the host, beside its first process."""
        own = _namespace(self.pid)
        found = [process for process in psutil.process_iter() if process.pid != self.pid]
        return [process for process in found if own is not None and _namespace(process.pid) == own]

    def unplug(self) -> None:
        """Cut its cable: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self.link, "down")

    def plug(self) -> None:
        """Put its cable back; what it runs has gone on meanwhile."""
        _ip("link", "set", self.link, "up")

    def power_off(self) -> None:
        """End all of its processes at once; one that was unplugged before has no way to say so."""
        self.first.kill()  # which kills the host's first process, and the kernel all others
        self.first.wait()
        for pipe in (self.first.stdin, self.first.stdout):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self.link)  # which would stay until the kernel has put the namespace away

    def power_on(self) -> None:
        """Make it anew, with its name, address and folder."""
        new = make_host(self.name, self.address, self.link.rpartition("-")[0], self.folder)
        self.first, self.pid = new.first, new.pid


@contextlib.contextmanager
def network_of_hosts(names: Sequence[str], folder: Path, subnet: str | None = None) -> Iterator[dict[str, Host]]:
    """Make hosts that reach each other and this machine; at the end they are gone, with all that runs on them."""
    subnet = subnet or f"10.213.{os.getpid() % 250}"
    bridge = f"ps{subnet.rpartition('.')[2]}"
    hosts: dict[str, Host] = {}
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip("link", "del", bridge)  # of a process that was killed
    _ip("link", "add", bridge, "type", "bridge")
    try:
        _ip("addr", "add", f"{subnet}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(names, start=1):
            hosts[name] = make_host(name, f"{subnet}.{number}", bridge, folder / name)
        yield hosts
    finally:
        for host in hosts.values():
            host.power_off()
        _ip("link", "del", bridge)


def make_host(name: str, address: str, bridge: str, folder: Path) -> Host:
    """Make one host at the bridge."""
    folder.mkdir(parents=True, exist_ok=True)
    first = subprocess.Popen(
        ["unshare", *_NAMESPACES, "bash", "-c", _INIT, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    if first.stdout.readline() != "ready\n":
        raise OSError(f"host {name} could not be made: see what unshare said")
    [child] = psutil.Process(first.pid).children()
    link = f"{bridge}-{address.rpartition('.')[2]}"
    _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(child.pid))
    _ip("link", "set", link, "master", bridge, "up")
    for words in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
        subprocess.run(["nsenter", "--target", str(child.pid), "--net", "ip", *words], check=True, capture_output=True)
    return Host(name=name, address=address, link=link, first=first, pid=child.pid, folder=folder)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _namespace(pid: int) -> str | None:
    """The PID namespace of a process; None when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
