"""A deployment put together on hosts by `prefillshare router` and `prefillshare worker --join`.

Started, and started again, as an init system does it.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.hosts.machines import Host
from prefillshare import direct

PORT = 30000
TRANSPORT_PORTS = range(31000, 31100)
"""Ports for UCX and the messages of hand-offs, which else take any."""
START_S = 300.0
_POLL_S = 0.2
_VARIABLES = {
    "PREFILLSHARE_ADMIN_KEY": "of-the-hosts",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    # Hosts share a kernel, and UCX would find ways through it that real machines do not have.
    "UCX_TLS": "tcp",
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
class HostedDeployment:
    """Its parts, and how to reach it."""

    parts: dict[str, Part] = field(default_factory=dict)
    """By name."""

    @property
    def url(self) -> str:
        """Address of the router."""
        return f"http://{self.parts['router'].host.address}:{PORT}"

    def states(self) -> dict[str, str]:
        """Return what the router thinks of each worker; nothing when it does not answer."""
        try:
            reply = direct.get(f"{self.url}/workers", timeout=5)
            return {worker["id"]: worker["state"] for worker in reply.json()["workers"]}
        except (httpx.HTTPError, ValueError, KeyError):
            return {}

    def busiest(self, role: str) -> str:
        """Return the name of the worker of `role` that has the most calls now, the last of several."""
        reply = direct.get(f"{self.url}/workers", timeout=5).raise_for_status()
        workers = [worker for worker in reply.json()["workers"] if worker["role"] == role]
        return str(max(workers, key=lambda worker: (worker["running"], worker["id"]))["id"])

    def is_whole(self) -> bool:
        """Return whether the router sends calls to every worker."""
        return self.states() == dict.fromkeys([name for name in self.parts if name != "router"], "up")

    def wait(self, until: Callable[[], bool], what: str, timeout_s: float = START_S) -> float:
        """Wait until it is so; return the seconds that it took.

        Raises: TimeoutError with the parts' last words.
        """
        started = time.monotonic()
        while not until():
            if time.monotonic() - started > timeout_s:
                words = "\n".join(f"{part.name}: {part.log.read_text()[-800:]}" for part in self.parts.values())
                raise TimeoutError(f"{what}: not within {timeout_s:.0f} s\n{words}")
            time.sleep(_POLL_S)
        return time.monotonic() - started

    def ask(self, module: str, prompt: Sequence[int], num_tokens: int) -> dict[str, Any]:
        """Return a greedy answer as `/generate` gives it."""
        reply = direct.post(f"{self.url}/modules/{module}/generate", json=greedy(prompt, num_tokens), timeout=START_S)
        reply.raise_for_status()
        answer: dict[str, Any] = reply.json()
        return answer


def greedy(prompt: Sequence[int], num_tokens: int, *, is_stream: bool = False) -> dict[str, Any]:
    """Return the body of a call for exactly so many tokens, each the likeliest."""
    sampling = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    return {"input_ids": list(prompt), "sampling_params": sampling, "stream": is_stream}


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
