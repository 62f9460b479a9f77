"""A deployment put together on hosts by `prefillshare router` and `prefillshare worker --join`.

Started, and started again, as an init system does it.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.hosts.machines import Host
from benchmarks.hosts.watched import PORT, TRANSPORT_PORTS, VARIABLES, Watched

_VARIABLES = {
    **VARIABLES,
    "PREFILLSHARE_ADMIN_KEY": "of-the-hosts",
    "UCX_TCP_PORT_RANGE": f"{TRANSPORT_PORTS[0]}-{TRANSPORT_PORTS[-1]}",
}


@dataclass(slots=True, kw_only=True)
class Part:
    """A router or a worker: its command, and the host on which it runs."""

    name: str
    """Of the worker, or `router`."""
    host: Host
    """Where it runs."""
    command: tuple[str, ...]
    """What the host's init system starts."""
    log: Path
    """What it says."""
    process: "subprocess.Popen[bytes] | None" = None
    """What entered the host; its child is the command."""

    def start(self) -> None:
        """Start it, as after each end of it."""
        self.process = self.host.start([sys.executable, "-m", "prefillshare", *self.command], self.log, _VARIABLES)

    def leave(self) -> None:
        """Let go of it; its host ends it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def supervisor(self) -> psutil.Process:
        """Return the command's own process, which looks after the others."""
        assert self.process is not None
        [child] = psutil.Process(self.process.pid).children()
        return child


@dataclass(slots=True, kw_only=True)
class HostedDeployment(Watched):
    """Its parts, and how to reach it."""

    parts: dict[str, Part] = field(default_factory=dict)
    """By name."""

    @property
    def url(self) -> str:
        """Address of the router."""
        return f"http://{self.parts['router'].host.address}:{PORT}"

    @property
    def workers(self) -> Sequence[str]:
        """Names of all parts but the router."""
        return [name for name in self.parts if name != "router"]

    @property
    def hosts(self) -> Sequence[Host]:
        """The hosts that have a part."""
        return list({part.host.name: part.host for part in self.parts.values()}.values())

    def logs(self) -> Sequence[Path]:
        """What the parts said."""
        return [part.log for part in self.parts.values()]

    def keepers_on(self, host: Host) -> Sequence[psutil.Process]:
        """The commands of a host."""
        return [part.supervisor() for part in self.parts.values() if part.host is host]


@contextmanager
def hosted(file: Path, router: Host, workers: dict[str, tuple[Host, str | None]]) -> Iterator[HostedDeployment]:
    """Start the router of `file` and the workers, by name: each a host and a module, or None for one that prefills."""
    deployment = HostedDeployment()
    url = f"http://{router.address}:{PORT}"
    command = ("router", str(file), "--host", router.address, "--port", str(PORT))
    deployment.parts["router"] = Part(name="router", host=router, command=command, log=router.folder / "router.log")
    for name, (host, module) in workers.items():
        role = ("--role", "prefill") if module is None else ("--role", "decode", "--module", module)
        command = ("worker", str(file), *role, "--join", url, "--host", host.address, "--name", name)
        deployment.parts[name] = Part(name=name, host=host, command=command, log=host.folder / f"{name}.log")
    try:
        for part in deployment.parts.values():
            part.start()
        deployment.wait(deployment.is_whole, "all workers are up")
        yield deployment
    finally:
        for part in deployment.parts.values():
            part.leave()
