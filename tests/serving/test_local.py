"""Deployments of this machine, from outside: which one is meant, and how one is ended whose launcher lives or does not.

Launchers and engines are small programs of their own; nothing here needs SGLang.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.errors import ConfigError
from prefillshare.serving.run import local
from prefillshare.serving.run.local import choose_deployment, find_remains, stop_deployment
from prefillshare.serving.run.record import DeploymentRecord, read_left_over, read_records

# A launcher that writes its record, and at SIGTERM says how long calls may take; `ignore` makes it deaf.
LAUNCHER = """
import mmap, os, signal, subprocess, sys, tempfile, time
from prefillshare.contract import STORE_FOLDER_START
from prefillshare.serving.run.record import ProcessRecord, asked_drain_s, record_of, write_record

name, url, role, how = sys.argv[1:]
engine = subprocess.Popen(["sleep", "100"], start_new_session=True, stdout=subprocess.DEVNULL)
process = ProcessRecord(name=f"{role}-0", role=role, module=None, pid=engine.pid, url=url, state="running")

if how == "store":
    with tempfile.NamedTemporaryFile(prefix=STORE_FOLDER_START) as pages:
        pages.truncate(mmap.PAGESIZE)
        store = mmap.mmap(pages.fileno(), 0)

def end(number, frame):
    print("drain", asked_drain_s(), flush=True)
    engine.kill()
    engine.wait()
    if how in ("store", "hung"):
        sys.stdin.readline()
    os._exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "ignore" else end)
write_record(record_of(name, "disaggregated", url, ("math",), [process]))
print("ready", flush=True)
time.sleep(100)
"""


class Launchers:
    """Launchers that run."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def start(self, name: str, url: str = "http://127.0.0.1:1", role: str = "engine", how: str = "") -> int:
        argv = [sys.executable, "-c", LAUNCHER, name, url, role, how]
        launcher = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "ready\n"
        self.running.append(launcher)
        return launcher.pid

    def kill(self, pid: int) -> None:
        """As the kernel or an administrator does: nothing is cleared up."""
        os.kill(pid, signal.SIGKILL)
        self.said(pid)

    def end_writing(self, pid: int) -> None:
        """What a launcher started with `store` does when it has ended its engine."""
        launcher = next(launcher for launcher in self.running if launcher.pid == pid)
        assert launcher.stdin is not None
        launcher.stdin.write("\n")
        launcher.stdin.flush()

    def said(self, pid: int) -> str:
        launcher = next(launcher for launcher in self.running if launcher.pid == pid)
        said, _ = launcher.communicate(timeout=120)
        return said


@pytest.fixture
def launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launchers]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    launchers = Launchers()
    yield launchers
    for record in (*read_records(), *read_left_over()):
        for process in record.processes:
            if process.pid is not None and find_remains(record):
                os.kill(process.pid, signal.SIGKILL)
    for launcher in launchers.running:
        launcher.kill()
        launcher.communicate()


def test_a_deployment_is_meant_by_its_name_or_its_launcher(launchers: Launchers) -> None:
    first, second = launchers.start("mine"), launchers.start("other", "http://127.0.0.1:2")
    assert [record.pid for record in choose_deployment("mine")] == [first]
    assert [record.name for record in choose_deployment(str(second))] == ["other"]
    with pytest.raises(ConfigError, match=r"no deployment 'mien' runs here; what runs: mine, other"):
        choose_deployment("mien")
    with pytest.raises(ConfigError, match=rf"say which one, by its name .*{first} \(mine at http://127.0.0.1:1\)"):
        choose_deployment(None)


def test_a_router_is_stopped_before_its_workers_and_told_how_long_to_wait(launchers: Launchers) -> None:
    url, said = "http://127.0.0.1:1", []
    worker = launchers.start("mine", url, "decode")
    router = launchers.start("mine", url, "router")
    stop_deployment(choose_deployment("mine"), 2.5, said.append)
    order = [int(line.split("pid ")[1].split(")")[0]) for line in said]
    assert order == [router, worker]
    assert all(launchers.said(pid) == "drain 2.5\n" for pid in order)
    assert read_records() == read_left_over() == []


def test_a_launcher_that_does_not_hear_is_killed_with_its_engines(
    launchers: Launchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_ended = local._has_ended
    # Only the launcher is given little time: what is killed may take a while to go.
    monkeypatch.setattr(local, "_has_ended", lambda record, timeout_s: has_ended(record, min(timeout_s, 0.5)))
    launchers.start("deaf", how="ignore")
    [record], said = choose_deployment("deaf"), []
    stop_deployment([record], 0, said.append)
    assert said[1] == "it has not ended in time and is killed"
    assert (find_remains(record), read_records(), read_left_over()) == ({}, [], [])


def test_a_launcher_that_writes_its_store_to_disk_is_let_to(
    launchers: Launchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle, it would leave the store's memory taken."""
    has_ended = local._has_ended

    def look(record: DeploymentRecord, timeout_s: float) -> bool:
        if timeout_s == local._KEEP_S:
            return has_ended(record, timeout_s)
        while find_remains(record):
            time.sleep(0.01)
        return False

    monkeypatch.setattr(local, "_has_ended", look)
    pid, said = launchers.start("stored", how="store"), list[str]()

    def say(text: str) -> None:
        said.append(text)
        if "waiting for that" in text:
            launchers.end_writing(pid)

    stop_deployment(choose_deployment("stored"), 0, say)
    assert said[1:] == ["its processes have ended, and its store is still written to disk: waiting for that"]
    assert launchers.said(pid) == "drain 0.0\n"
    assert launchers.running[-1].returncode == 0
    assert read_records() == read_left_over() == []


def test_what_a_killed_launcher_left_is_found_and_ended(launchers: Launchers) -> None:
    pid = launchers.start("mine")
    launchers.kill(pid)
    (record,) = read_left_over()
    assert list(find_remains(record)) == ["engine-0"]
    with pytest.raises(ConfigError, match="no deployment of yours runs here"):
        choose_deployment("mine")
    said: list[str] = []
    stop_deployment(choose_deployment("mine", may_be_left_over=True), 5, said.append)
    assert said == [f"its launcher, pid {pid}, was killed", "ending what is left of it: engine-0"]
    assert (find_remains(record), read_left_over()) == ({}, [])


def test_a_pid_that_somebody_else_has_now_is_left_alone(launchers: Launchers) -> None:
    launchers.kill(launchers.start("mine"))
    (record,) = read_left_over()
    [engine] = record.processes
    assert find_remains(replace(record, processes=(replace(engine, boot="another start"),))) == {}
    assert find_remains(record)


def test_a_launcher_that_hangs_without_a_store_is_killed(launchers: Launchers, monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended = local._has_ended

    def look(record: DeploymentRecord, timeout_s: float) -> bool:
        while find_remains(record):
            time.sleep(0.01)
        return has_ended(record, 0.0)

    monkeypatch.setattr(local, "_has_ended", look)
    launchers.start("hung", how="hung")
    said: list[str] = []
    stop_deployment(choose_deployment("hung"), 0, said.append)
    assert said[1:2] == ["it has not ended in time and is killed"]
