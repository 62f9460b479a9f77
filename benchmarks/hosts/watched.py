"""A deployment on hosts as its router shows it, and what its hosts run; whoever started it."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.hosts.machines import Host
from prefillshare import direct

PORT = 30000
TRANSPORT_PORTS = range(31000, 31100)
"""Ports for UCX and the messages of hand-offs, which else take any."""
START_S = 900.0
"""Longest wait for workers to be up: each imports SGLang on its own host, for minutes where others take the cores."""
ANSWER_S = 300.0
"""Longest wait for an answer that is compared, and not timed."""
VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    # Hosts share a kernel, and UCX would find ways through it that real machines do not have.
    "UCX_TLS": "tcp",
}
"""What all of its processes are started with."""
_POLL_S = 0.2
_FORKED = "sglang_patches.forkserver"


class Watched(ABC):
    """One deployment."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Address of the router."""

    @property
    @abstractmethod
    def workers(self) -> Sequence[str]:
        """Names of the workers that are to be there."""

    @property
    @abstractmethod
    def hosts(self) -> Sequence[Host]:
        """Where it runs."""

    @abstractmethod
    def logs(self) -> Sequence[Path]:
        """Files with what its commands said."""

    @abstractmethod
    def keepers_on(self, host: Host) -> Sequence[psutil.Process]:
        """Processes of a host that look after the others there."""

    def describe_workers(self) -> dict[str, dict[str, Any]]:
        """Return what the router says of each worker; nothing when it does not answer."""
        try:
            reply = direct.get(f"{self.url}/workers", timeout=5)
            return {worker["id"]: worker for worker in reply.json()["workers"]}
        except (httpx.HTTPError, ValueError, KeyError):
            return {}

    def known_workers(self) -> dict[str, dict[str, Any]]:
        """Return what the router says of each worker, once it says anything: a busy one may not answer in time."""
        told: dict[str, dict[str, Any]] = {}

        def is_told() -> bool:
            told.update(self.describe_workers())
            return bool(told)

        self.wait(is_told, "the router tells of its workers")
        return told

    def states(self) -> dict[str, str]:
        """Return what the router thinks of each worker; nothing when it does not answer."""
        return {name: worker["state"] for name, worker in self.describe_workers().items()}

    def busiest(self, role: str) -> str:
        """Return the name of the worker of `role` that has the most calls now, the last of several."""
        workers = [worker for worker in self.known_workers().values() if worker["role"] == role]
        return str(max(workers, key=lambda worker: (worker["running"], worker["id"]))["id"])

    def is_whole(self) -> bool:
        """Return whether the router sends calls to every worker."""
        return self.states() == dict.fromkeys(self.workers, "up")

    def wait(self, until: Callable[[], bool], what: str, timeout_s: float = START_S) -> float:
        """Wait until it is so; return the seconds that it took.

        Raises: TimeoutError with the commands' last words.
        """
        started = time.monotonic()
        while not until():
            if time.monotonic() - started > timeout_s:
                words = "\n".join(f"{log.stem}: {log.read_text()[-800:]}" for log in self.logs())
                raise TimeoutError(f"{what}: not within {timeout_s:.0f} s; workers: {self.states()}\n{words}")
            time.sleep(_POLL_S)
        return time.monotonic() - started

    def ask(self, module: str, prompt: Sequence[int], num_tokens: int) -> dict[str, Any]:
        """Return a greedy answer as `/generate` gives it."""
        reply = direct.post(f"{self.url}/modules/{module}/generate", json=greedy(prompt, num_tokens), timeout=ANSWER_S)
        reply.raise_for_status()
        answer: dict[str, Any] = reply.json()
        return answer

    def find_orphans(self, host: Host) -> list[psutil.Process]:
        """Return processes of a host that nobody looks after."""
        found = host.processes()  # first: one that is started meanwhile is looked after, and in neither
        kept = set[psutil.Process]()
        for keeper in self.keepers_on(host):
            kept |= {keeper, *keeper.children(recursive=True)}
        return [process for process in found if process not in kept and process.is_running()]

    def count_orphans(self) -> int:
        """Return how many such processes there are."""
        return sum(len(self.find_orphans(host)) for host in self.hosts)

    def count_doubled(self) -> int:
        """Return how many engines there are beyond one for each worker."""
        return max(0, sum(len(find_engines(host)) for host in self.hosts) - len(self.workers))


def greedy(prompt: Sequence[int], num_tokens: int, *, is_stream: bool = False) -> dict[str, Any]:
    """Return the body of a call for exactly so many tokens, each the likeliest."""
    sampling = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    return {"input_ids": list(prompt), "sampling_params": sampling, "stream": is_stream}


def find_engines(host: Host) -> list[psutil.Process]:
    """Return the first process of each engine of a host."""
    return [process for process in host.processes() if is_engine(process)]


def words_of(process: psutil.Process) -> list[str]:
    """Return its command line's words. One that sets its title has all of them in one string."""
    return " ".join(process.cmdline()).split()


def is_program(process: psutil.Process, module: str) -> bool:
    """Whether it runs `python -m MODULE`."""
    return module in words_of(process)


def is_engine(process: psutil.Process) -> bool:
    """Whether it is an engine's first process: the leader of a group, made by a fork server, which is one itself."""
    try:
        is_leader = os.getpgid(process.pid) == process.pid and is_program(process, _FORKED)
        parent = process.parent()
        return is_leader and parent is not None and _is_forked_or_first(parent)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


def _is_forked_or_first(parent: psutil.Process) -> bool:
    """Fork servers are children of who looks after them; an engine may have lost its own to a host's first process."""
    return is_program(parent, _FORKED) or parent.name() == "bash"
