"""Two checkouts of this project as systems under load, each served by its own `prefillshare launch`."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from prefillshare.bench.systems.base import Engine, Running, Target
from prefillshare.serving.machine.ports import free_port

MODULES = ("math", "tool", "code")
Topology = Literal["colocated", "disaggregated"]
OFF = {"prefill": {"eager_answers": "false"}, "engine": {"memory_wait_s": "0"}}
"""What switches the features off, by table; there is no store without a table of its own."""
_START_S = 240.0


class StartError(Exception):
    """A checkout does not serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """One state of the project."""

    name: str
    path: Path

    @property
    def python(self) -> str:
        """Its own interpreter, or this one where it has none: the packages are the same while the pin is."""
        own = self.path / ".venv" / "bin" / "python"
        return str(own) if own.exists() else sys.executable

    def switches(self, table: str) -> list[str]:
        """Lines that switch features off, but for those that this checkout does not have: it would refuse the key."""
        known = (self.path / "prefillshare" / "config" / "schema.py").read_text()
        return [f"{key} = {value}" for key, value in OFF[table].items() if f"{key}:" in known]

    def deployment_text(self, topology: Topology, kv_tokens: int) -> str:
        """Its tiny family with everything off."""
        tiny = self.path / "models" / "tiny"
        kind = 'kind = "lora"' if topology == "colocated" else 'kind = "full"\nmerge = true'
        modules = [f'[[decode]]\nname = "{name}"\n{kind}\npath = "{tiny / name}"' for name in MODULES]
        engine = self.switches("engine") if topology == "colocated" else []
        return "\n".join(
            [
                f'name = "switched-off-{self.name}"',
                f'topology = "{topology}"',
                f'[prefill]\nname = "tiny-base"\npath = "{tiny / "base"}"',
                *self.switches("prefill"),
                *modules,
                f"[engine]\nmax_total_tokens = {kv_tokens}",
                *engine,
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A checkout that answers."""

    running: Running
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far, the launcher's included."""
        return sum(sum(each.cpu_times()[:2]) for each in [self.process, *self.process.children(recursive=True)])


@contextlib.contextmanager
def serve(checkout: Checkout, topology: Topology, kv_tokens: int, folder: Path) -> Iterator[Served]:
    """Raises: StartError with the end of what its `launch` said."""
    file, log, port = folder / f"{checkout.name}.toml", folder / f"{checkout.name}.log", free_port()
    file.write_text(checkout.deployment_text(topology, kv_tokens))
    # Its folder goes before whatever the interpreter has installed.
    environment = os.environ | {"PYTHONPATH": str(checkout.path)}
    argv = [checkout.python, "-m", "prefillshare", "launch", str(file), "--port", str(port)]
    with log.open("w") as output:
        launched = subprocess.Popen(argv, cwd=checkout.path, env=environment, stdout=output, stderr=output)
    try:
        _wait_until_ready(launched, port, log)
        yield Served(running=_describe(port, topology), process=psutil.Process(launched.pid))
    finally:
        launched.terminate()
        launched.wait()


def _wait_until_ready(launched: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while "ready after" not in log.read_text():
        if launched.poll() is not None or time.monotonic() > deadline:
            raise StartError(f"the checkout of {log.stem} does not serve: {log.read_text()[-1000:]}")
        time.sleep(0.2)


def _describe(port: int, topology: Topology) -> Running:
    url = f"http://127.0.0.1:{port}"
    if topology == "colocated":
        targets = {name: Target(url=url, adapter=name) for name in MODULES}
        return Running(targets=targets, engines=(Engine(url=url),))
    return Running(targets={name: Target(url=url, model=name) for name in MODULES})
