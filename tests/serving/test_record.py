"""`prefillshare ps` reads what launchers wrote, and forgets launchers that are gone."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.serving.run import record as record_module
from prefillshare.serving.run.record import (
    DeploymentRecord,
    ProcessRecord,
    boot_of,
    read_admin_key,
    read_left_over,
    read_records,
    record_of,
    remove_record,
    write_admin_key,
    write_record,
)

ROUTER = ProcessRecord(name="router", role="router", module=None, pid=7, url="http://127.0.0.1:1", state="running")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "prefillshare" / "run"


def test_a_running_deployment_is_read_back_and_removed() -> None:
    record = record_of("mine", "disaggregated", "http://127.0.0.1:1", ("math",), [ROUTER])
    write_record(record)
    assert read_records() == [record]
    remove_record(os.getpid())
    assert read_records() == []


def test_a_record_that_cannot_be_written_is_told_to_its_launcher(state: Path) -> None:
    record = record_of("mine", "disaggregated", "http://127.0.0.1:1", ("math",), [ROUTER])
    state.parent.mkdir()
    state.write_text("no directory")
    assert not write_record(record)
    state.unlink()
    assert write_record(record)
    assert read_records() == [record]


def test_a_launcher_that_is_gone_runs_no_more_and_is_left_over() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for boot in ("1", boot_of(os.getpid())):
        record = DeploymentRecord(
            name="x", topology="colocated", url="http://x", pid=gone.pid, boot=boot, models=("a",)
        )
        write_record(record)
        assert read_records() == []
        assert read_left_over() == [record]
        remove_record(gone.pid)
        assert read_left_over() == []


def test_a_process_that_waits_to_be_reaped_has_ended() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert boot_of(ended.pid) == ""
    ended.wait()


def test_a_record_of_an_earlier_version_is_read(state: Path) -> None:
    write_record(record_of("mine", "disaggregated", "http://127.0.0.1:1", ("math",), [ROUTER]))
    (file,) = state.glob("*.json")
    content = json.loads(file.read_text())
    for name in ("state", "log", "overrides"):
        del content[name]
    for name in ("log", "boot"):
        del content["processes"][0][name]
    file.write_text(json.dumps(content))
    (record,) = read_records()
    assert (record.name, record.state, record.overrides, record.processes[0].log) == ("mine", "serving", (), None)


def test_a_broken_file_is_no_error(state: Path) -> None:
    record = record_of("mine", "disaggregated", "http://127.0.0.1:1", ("math",), [ROUTER])
    write_record(record)
    for number, text in enumerate(("{", "[]", '{"pid": 1}')):
        write_record(replace(record, pid=number))
        [file] = state.glob(f"{number}@*.json")
        file.write_text(text)
    assert read_records() == [record]


def test_a_machine_with_the_same_home_is_left_alone(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its processes' numbers, what runs there would be taken for what a launcher left here, and forgotten."""
    record = record_of("mine", "disaggregated", "http://127.0.0.1:1", ("math",), [ROUTER])
    write_record(record)
    write_admin_key(record.pid, "its key")
    here = record_module._machine()
    for elsewhere in ("@other", f"@x{here.removeprefix('@')}"):
        monkeypatch.setattr(record_module, "_machine", lambda elsewhere=elsewhere: elsewhere)
        assert read_records() == read_left_over() == []
        assert read_admin_key(record.url) is None
        write_record(replace(record, name="theirs"))
        assert [found.name for found in read_records()] == ["theirs"]
        remove_record(record.pid)
    monkeypatch.setattr(record_module, "_machine", lambda: here)
    assert read_records() == [record]
    assert read_admin_key(record.url) == "its key"
