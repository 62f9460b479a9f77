"""Deployments with a store: their files, and engines that can be killed and launched again over the same one."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import RunningDeployment, launch, plan
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.store import plan_store
from prefillshare.store import KvStore
from prefillshare.store.folders import memory_folder
from prefillshare.store.layout import TableLayout
from prefillshare.store.opening import read_header
from tests.support.engines import MODELS_DIR, TINY_AGENTS, Endpoint
from tests.support.forks import fork_server
from tests.support.waiting import wait_until

PAGE_TOKENS = 16
"""Of a deployment with a store that says nothing of it."""


def stored_agents(folder: Path, store: str = 'memory = "64 MiB"\n') -> Path:
    """The tiny deployment with a [store] table; return its file."""
    text = TINY_AGENTS.read_text(encoding="utf-8").replace('path = "tiny/', f'path = "{MODELS_DIR}/tiny/')
    file = folder / "stored.toml"
    file.write_text(f"{text}\n[store]\n{store}", encoding="utf-8")
    return file


def whole_pages(num_tokens: int) -> int:
    """Of so many prompt tokens, those that a decode module finds when all before the last one is known."""
    return (num_tokens - 1) // PAGE_TOKENS * PAGE_TOKENS


class Relaunched:
    """One launch after the other of a deployment file, each until its engine is killed."""

    def __init__(self, file: Path, *extra_args: str) -> None:
        self.file = file
        self._extra_args = extra_args
        self._launched: list[RunningDeployment] = []
        self.endpoint: Endpoint

    @property
    def running(self) -> RunningDeployment:
        """The latest launch."""
        return self._launched[-1]

    def launch(self, switches: Mapping[str, str] | None = None) -> Endpoint:
        """Launch the file (again)."""
        deployment = resolve(load_deployment(self.file))
        options = LaunchOptions(port=free_port(), extra_args=self._extra_args, max_restarts=0)
        command = next(iter(plan(deployment, options).values()))
        self._launched.append(launch(deployment, options, borrowed=fork_server(command, switches)))
        self.endpoint = Endpoint(self._launched[-1].url)
        return self.endpoint

    def kill(self) -> None:
        """Kill the engine without warning; its launch notices and ends, and leaves the store."""
        running = self._launched[-1]
        os.killpg(running.pid, signal.SIGKILL)
        with pytest.raises(LaunchError, match="ended by itself"):
            _watch(running)
        self.endpoint.close()

    def stop(self) -> None:
        """End the launch as Ctrl-C does. Those that failed have held the store until now, as no dead process would."""
        for running in self._launched:
            running.stop(drain_s=0)
        self.endpoint.close()

    def wait_for_pages(self, num_pages: int) -> None:
        """Wait until the store has so many pages."""
        wait_for_pages(self.file, num_pages)


def wait_for_pages(file: Path, num_pages: int, longest_s: float = 300.0) -> None:
    """Wait until the store of a deployment file has so many pages: what is answered is written a moment later."""
    wait_until(
        lambda: num_stored_pages(file) >= num_pages,
        lambda: f"{num_stored_pages(file)} of {num_pages} pages are stored",
        within_s=longest_s,
    )


def store_path(file: Path) -> Path:
    """The memory tier of the running deployment's one rank."""
    settings = plan_store(resolve(load_deployment(file)))
    assert settings is not None
    (path,) = memory_folder(settings.memory_directory, settings.name).glob("*.store")
    return path


@contextlib.contextmanager
def attached(file: Path) -> Iterator[KvStore]:
    """The running deployment's store, as one of its engines has it."""
    settings, header = plan_store(resolve(load_deployment(file))), read_header(store_path(file))
    assert settings is not None
    assert header is not None
    with contextlib.closing(KvStore.attach(settings, header.identity)) as store:
        yield store


def num_stored_pages(file: Path) -> int:
    """Pages that any engine would find now."""
    with attached(file) as store:
        return store.stats().tiers[0].num_pages


def forget_stored(file: Path) -> int:
    """Take all pages away behind the engines' backs; return how many there were."""
    with attached(file) as store:
        num_pages = store.forget_all()
    assert num_pages is not None
    return num_pages


def damage_store(file: Path, every: int = 3) -> int:
    """Flip a bit in every so many'th page of the running deployment's store; return how many."""
    path = store_path(file)
    header, num_damaged = read_header(path), 0
    assert header is not None
    data = TableLayout(num_slots=header.num_slots).end
    with path.open("r+b") as store:
        for slot in range(0, header.num_slots, every):
            store.seek(data + slot * header.slot_bytes)
            byte = store.read(1)
            if byte and byte != b"\0":
                store.seek(-1, os.SEEK_CUR)
                store.write(bytes([byte[0] ^ 1]))
                num_damaged += 1
    return num_damaged


def _watch(running: RunningDeployment) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        running.step()
        time.sleep(0.1)


@contextlib.contextmanager
def relaunched(file: Path, *extra_args: str) -> Iterator[Relaunched]:
    """A launch of the file; at the end nothing of it is left."""
    launches = Relaunched(file, *extra_args)
    try:
        launches.launch()
        yield launches
    finally:
        launches.stop()
