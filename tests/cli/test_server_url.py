"""Commands that ask a server find it by themselves, and hints name it."""

import os
from pathlib import Path

import pytest

from prefillshare.cli.server_options import DEFAULT_URL, server_url, url_words
from prefillshare.direct import launch_line
from prefillshare.errors import ConfigError
from prefillshare.serving.run.record import DeploymentRecord, boot_of, write_record

FIRST, SECOND = "http://127.0.0.1:31001", "http://127.0.0.1:31002"


def _running(name: str, url: str, pid: int) -> None:
    write_record(
        DeploymentRecord(
            name=name, topology="colocated", url=url, pid=pid, boot=boot_of(pid), models=(f"{name}-math", "base")
        )
    )


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_the_only_deployment_that_runs_is_meant() -> None:
    assert server_url(None) == DEFAULT_URL
    _running("first", FIRST, os.getpid())
    assert server_url(None) == FIRST
    assert server_url(SECOND) == SECOND


def test_of_several_deployments_none_is_guessed() -> None:
    _running("first", FIRST, os.getpid())
    _running("second", SECOND, os.getppid())
    with pytest.raises(ConfigError) as refused:
        server_url(None)
    for text in ("2 deployments", f"--url {FIRST}", f"--url {SECOND}", "first-math", "second-math"):
        assert text in str(refused.value)
    assert server_url(SECOND) == SECOND


def test_a_worker_that_joined_is_no_deployment_of_its_own() -> None:
    _running("first", FIRST, os.getpid())
    _running("first", FIRST, os.getppid())
    assert server_url(None) == FIRST


def test_no_place_for_records_is_no_reason_not_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/none")
    assert server_url(None) == DEFAULT_URL


def test_hints_name_the_port_unless_it_is_the_usual_one() -> None:
    assert url_words(DEFAULT_URL) == ""
    assert url_words(FIRST) == f" --url {FIRST}"
    assert launch_line(DEFAULT_URL) == "prefillshare launch"
    assert launch_line(FIRST) == "prefillshare launch --port 31001"
