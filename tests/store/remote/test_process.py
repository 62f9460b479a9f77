"""What the launcher does for a host's process, and an engine for its fetches, where the machine gives them nothing."""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefillshare.store.remote import process as process_module
from prefillshare.store.remote.client import FetchClient
from tests.store.remote.hosts import Host, free_address, host, secret_file
from tests.store.stores import chain, identity, settings


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return secret_file(tmp_path)


@pytest.fixture
def killed(secret: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host whose process has been killed, to be started again at once."""
    monkeypatch.setattr(process_module, "_PAUSE_S", 0.0)
    # A Unix socket's path is short, and pytest's are not.
    with (
        tempfile.TemporaryDirectory(prefix="ps") as folder,
        host(Path(folder), secret, peers=(f"http://{free_address()}",)) as running,
    ):
        os.kill(running.process.pid, signal.SIGKILL)
        running.process._process.wait()
        yield running


def test_a_process_that_ends_when_it_is_started_again_says_why_in_its_log(killed: Host, secret: Path) -> None:
    secret.chmod(0o644)
    killed.process.step()
    assert killed.process._process.wait() == 1
    assert "(mode 644)" in killed.log


def test_a_process_that_cannot_be_started_now_is_started_later(killed: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher goes on: its engines need no peers."""
    before = killed.process.pid
    with monkeypatch.context() as crowded:
        crowded.setattr(process_module.subprocess, "Popen", _refuse)
        killed.process.step()
    assert killed.process.pid == before
    killed.process.step()
    assert killed.process.pid != before


def test_a_fetch_for_which_there_is_no_thread_brings_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the scheduler's thread that asks: an error there would end the engine."""
    client = FetchClient(settings(tmp_path), identity())
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", _refuse_thread)
        assert client.begin(chain(2), (), 5.0).result(60) == 0
    client.close()


def _refuse(*_: object, **__: object) -> None:
    raise BlockingIOError("Resource temporarily unavailable")


def _refuse_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
