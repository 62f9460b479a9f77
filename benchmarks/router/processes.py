"""The processes of the benchmark: workers, router, smg; each pinned to a core, each ended by its own id."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.router.calls import BASE, MODULE
from prefillshare.serving.machine.ports import free_port

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One process under test."""

    pid: int | None
    """Process id; None when there is nothing between client and worker."""
    port: int
    """Port that it serves on."""

    @property
    def cpu_s(self) -> float:
        """Processor time so far, all threads."""
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    @property
    def rss_mib(self) -> float:
        """Memory in use."""
        if self.pid is None:
            return 0.0
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@contextlib.contextmanager
def workers(core: int, prefill_model: str = BASE) -> Iterator[tuple[int, int]]:
    """Run the workers; yield the ports of the prefill and the decode worker."""
    prefill, decode = free_port(), free_port()
    command = [sys.executable, "-m", "benchmarks.router.worker", str(prefill), prefill_model, str(decode)]
    with _process(command, core):
        yield prefill, decode


@contextlib.contextmanager
def router(cores: tuple[int, int]) -> Iterator[Running]:
    """Run this project's router with its defaults, before workers."""
    with routers((cores[0],), cores[1]) as (running,):
        yield running


@contextlib.contextmanager
def routers(cores: Sequence[int], other_core: int) -> Iterator[list[Running]]:
    """Run a router on each of `cores`, all before the same workers; several know each other."""
    ports = [free_port() for _ in cores]
    peers = [router_address(port) for port in ports] if len(ports) > 1 else []
    with contextlib.ExitStack() as stack:
        worker_ports = stack.enter_context(workers(other_core))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        running = []
        for port, core in zip(ports, cores, strict=True):
            file = Path(directory, f"router-{port}.json")
            file.touch(mode=0o600)
            file.write_text(json.dumps(_settings(port, *worker_ports) | {"peers": peers, "admin_key": "bench"}))
            command = [sys.executable, "-m", "prefillshare.routing", str(file)]
            running.append(Running(pid=stack.enter_context(_process(command, core)), port=port))
        yield running


def router_address(port: int) -> str:
    """Return the address by which a router is known to the others."""
    return f"http://127.0.0.1:{port}"


def _settings(port: int, prefill_port: int, decode_port: int) -> dict[str, object]:
    prefill_url, decode_url = f"http://127.0.0.1:{prefill_port}", f"http://127.0.0.1:{decode_port}"
    prefill = {"id": "p0", "role": "prefill", "url": prefill_url, "bootstrap_host": "127.0.0.1", "bootstrap_port": 8998}
    decode = {"id": "d0", "role": "decode", "module": MODULE, "url": decode_url}
    return {"port": port, "base_model": BASE, "workers": [prefill, decode]}


@contextlib.contextmanager
def smg(program: Path, cores: tuple[int, int]) -> Iterator[Running]:
    """Run the gateway smg in its prefill/decode mode before such workers.

    It pairs only workers of one model, so here the prefill worker has the decode module's name.
    """
    port, metrics_port = free_port(), free_port()
    with workers(cores[1], MODULE) as (prefill_port, decode_port):
        command = [str(program), "launch", "--pd-disaggregation", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--prefill", f"http://127.0.0.1:{prefill_port}", "8998"]
        command += ["--decode", f"http://127.0.0.1:{decode_port}", "--policy", "cache_aware"]
        command += ["--prometheus-port", str(metrics_port), "--log-level", "error"]
        with _process(command, cores[0]) as pid:
            yield Running(pid=pid, port=port)


@contextlib.contextmanager
def direct(cores: tuple[int, int]) -> Iterator[Running]:
    """Run workers only; the decode worker is called without anything in between."""
    with workers(cores[1]) as (_, decode_port):
        yield Running(pid=None, port=decode_port)


@contextlib.contextmanager
def _process(command: Sequence[str], core: int) -> Iterator[int]:
    # taskset replaces itself by the program, so the process id is the program's.
    process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
