"""Processes are never left behind, whatever happens to their owner."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from prefillshare.errors import ConfigError, LaunchError
from prefillshare.open_files import open_log
from prefillshare.serving.machine.logs import bound_log, new_log_path, older_log
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.run import process as process_module
from prefillshare.serving.run.engine_load import count_calls, count_running
from prefillshare.serving.run.forks import ForkedEngine, ForkServer
from prefillshare.serving.run.process import EngineProcess, group_members, start_engine
from prefillshare.serving.stopping import StopRequested, stop_signals
from tests.support.waiting import wait_until

# An engine with a child and a segment of shared memory, as SGLang is, that ignores SIGTERM.
STUBBORN = """
import mmap, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
segment = open(f"/dev/shm/prefillshare-test-{os.getpid()}", "wb+")
segment.truncate(mmap.PAGESIZE)
mapped = mmap.mmap(segment.fileno(), mmap.PAGESIZE)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print("child-pid", child.pid, flush=True)
time.sleep(100)
"""


# A child whose first thread has ended while another one still holds what the process has open.
HEADLESS = """
import ctypes, subprocess, sys, time
program = "; ".join((
    "import ctypes, platform, threading, time",
    "threading.Thread(target=time.sleep, args=(100,)).start()",
    "ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)",  # exit, of one thread
))
child = subprocess.Popen([sys.executable, "-c", program])
print("child-pid", child.pid, flush=True)
time.sleep(100)
"""


def _start(tmp_path: Path, program: str = STUBBORN, api_key: str | None = None) -> EngineProcess:
    argv = (sys.executable, "-c", program)
    command = ProcessCommand(argv=argv, environment={"MARK": "1"}, api_key=api_key)
    return start_engine(command, tmp_path / "engine.log", private=[tmp_path / "private"])


def _child_pid(log: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("child-pid "):
                return int(line.split()[1])
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def _segment_of(pid: int) -> Path:
    return Path(f"/dev/shm/prefillshare-test-{pid}")


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _wait_until_dead(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and _is_alive(pid):
        time.sleep(0.05)
    return not _is_alive(pid)


def _wait_until_gone(path: Path) -> None:
    """The guardian removes files after it has killed, in its own time."""
    wait_until(lambda: not path.exists(), f"{path} is there still")


def test_stop_ends_all_processes_and_removes_the_scratch_directory(tmp_path: Path) -> None:
    process = _start(tmp_path)
    child = _child_pid(process.log_path)
    assert process.scratch.is_dir()
    process.stop(drain_s=5)
    assert not _is_alive(process.pid)
    assert not _is_alive(child)
    assert not process.scratch.exists()
    process.kill()


def test_a_process_whose_first_thread_has_ended_still_counts(tmp_path: Path) -> None:
    """It holds locks and shared memory until its last thread is gone."""
    process = _start(tmp_path, HEADLESS)
    child = _child_pid(process.log_path)
    assert _wait_until_dead(child, 60)  # by the state of its first thread
    assert child in group_members(process.pid)
    process.kill()
    assert child not in group_members(process.pid)


def test_stop_waits_for_running_requests_but_not_for_ever(tmp_path: Path) -> None:
    process = _start(tmp_path)
    left = iter([2, None, 1, 0])  # None: too busy to say
    _child_pid(process.log_path)
    process.stop(drain_s=300, num_running=lambda: next(left))
    assert list(left) == []

    process = _start(tmp_path)
    _child_pid(process.log_path)
    start = time.monotonic()
    process.stop(drain_s=0.5, num_running=lambda: 1)
    assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize("count", [count_running, count_calls])
def test_who_does_not_answer_in_time_is_busy_and_who_is_gone_is_not(
    count: Callable[[str, str | None], int | None],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert count(url, None) is None
    assert count(url, None) == 0


def test_the_engine_dies_with_its_owner_even_when_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; sys.path.insert(0, '.');"
            "from tests.serving.test_process import _start;"
            "p = _start(Path(sys.argv[1])); print(p.pid, p.scratch, flush=True); time.sleep(100)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    pid, scratch = owner.stdout.readline().split()
    child = _child_pid(tmp_path / "engine.log")
    segment = _segment_of(int(pid))
    assert segment.exists()
    assert _is_alive(int(pid))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert _wait_until_dead(int(pid), 60)
    assert _wait_until_dead(child, 60)
    _wait_until_gone(Path(scratch))
    _wait_until_gone(tmp_path / "private")
    _wait_until_gone(segment)


def test_the_api_key_travels_in_a_private_file(tmp_path: Path) -> None:
    program = "import sys, yaml; print('key', yaml.safe_load(open(sys.argv[2])))"
    process = _start(tmp_path, program, api_key="it's: #secret")
    process.main.wait(timeout=120)
    file = process.scratch / "key.yaml"
    assert file.stat().st_mode & 0o077 == 0
    process.kill()
    assert "key {'api-key': \"it's: #secret\"}" in process.log_path.read_text()
    assert process.log_path.stat().st_mode & 0o077 == 0


def test_a_program_that_does_not_exist_is_said(tmp_path: Path) -> None:
    command = ProcessCommand(argv=("/no/such/program",), environment={}, api_key=None)
    with pytest.raises(LaunchError, match="could not be started"):
        start_engine(command, tmp_path / "engine.log")


FULL = Path("/dev/full")
"""Can be opened as any file, and has no room for a single byte."""


def test_a_first_start_whose_log_has_no_room_is_refused_with_the_reason(tmp_path: Path) -> None:
    command = ProcessCommand(argv=(sys.executable, "-c", ""), environment={}, api_key=None)
    with pytest.raises(
        LaunchError, match=r"its log /dev/full cannot be written \(No space left on device\)"
    ) as refused:
        start_engine(command, FULL)
    assert "--log-file" in str(refused.value)
    assert isinstance(refused.value.__cause__, OSError)


@pytest.mark.parametrize("name", ["/dev/full", "gone/engine.log"])
def test_a_process_is_started_again_although_its_log_cannot_be_written(tmp_path: Path, name: str) -> None:
    """What it says would be read by nobody; what it answers is."""
    log, written = tmp_path / name, tmp_path / "written"
    program = f"print('x' * 10**6, flush=True); open({str(written)!r}, 'w').write('done')"
    command = ProcessCommand(argv=(sys.executable, "-c", program), environment={}, api_key=None)
    process = start_engine(command, log, is_restart=True)
    try:
        assert process.main.wait(60) == 0
        assert written.read_text() == "done"
        assert process.lost_log is not None
        assert process.lost_log.startswith(f"its log {log} cannot be written (No s")
    finally:
        process.kill()


def _note_group(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids of what is started from now on."""
    groups, really_start = [], process_module._start

    def start(*arguments: Any) -> "subprocess.Popen[bytes]":
        main = really_start(*arguments)
        groups.append(main.pid)
        return main

    monkeypatch.setattr(process_module, "_start", start)
    return groups


def test_without_a_guardian_nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    groups = _note_group(monkeypatch)
    monkeypatch.setattr(process_module, "_guard", refuse)
    with pytest.raises(LaunchError, match="temporarily unavailable"):
        _start(tmp_path)
    [group] = groups
    assert group_members(group) == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_a_process_and_its_guardian_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, times: int
) -> None:
    really_guard = process_module._guard

    def guard(*arguments: Any) -> "subprocess.Popen[bytes]":
        for _ in range(times):
            signal.raise_signal(number)
        return really_guard(*arguments)

    groups = _note_group(monkeypatch)
    monkeypatch.setattr(process_module, "_guard", guard)
    with stop_signals():
        with contextlib.suppress(StopRequested):
            _start(tmp_path)
            pytest.fail("the signal was forgotten")
        assert signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
    [group] = groups
    assert group_members(group) == []


def test_no_folder_for_a_process_is_no_mistake_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a disk that is full just now: a supervisor tries again, as after any start that fails."""

    def refuse() -> Path:
        raise ConfigError("no folder can be made in /tmp (No space left on device): set TMPDIR to another")

    monkeypatch.setattr(process_module, "new_private_folder", refuse)
    with pytest.raises(LaunchError, match="No space left on device"):
        _start(tmp_path)


def test_a_forked_engine_that_nobody_could_look_after_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        ForkedEngine(engine.pid, cast(ForkServer, None))
    assert engine.wait(60) == -signal.SIGKILL


def test_only_the_last_logs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    logs = tmp_path / "prefillshare" / "logs"
    for number in range(70):
        path = new_log_path("my agents")
        path.with_name(f"{number}.log").write_text("")
        os.utime(logs / f"{number}.log", (number, number))
    assert len(list(logs.glob("*.log"))) <= 60
    assert (logs / "69.log").exists()
    assert path.name.startswith("my-agents-")


WRITERS = (
    "",
    "from pathlib import Path; from sglang_patches.forkserver import _write_output_to; _write_output_to({log!r}); ",
)
"""A process that is given a log, and one that a fork server has made."""


@pytest.mark.parametrize("begin", WRITERS)
def test_a_log_that_somebody_writes_to_is_kept_with_what_it_had_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    """Its engine may have said nothing for longer than sixty others."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    log = new_log_path("quiet")
    program = f"{begin.format(log=str(log))}import sys; print('up', flush=True); sys.stdin.read()"
    output = subprocess.DEVNULL if begin else open_log(log)
    writer = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=output)
    if not isinstance(output, int):
        output.close()
    _wait_until_written(log)
    older_log(log).write_text("what it had before")
    for old in (log, older_log(log)):
        os.utime(old, (0, 0))
    for number in range(70):
        (log.parent / f"{number}.log").write_text("")
    new_log_path("next")
    assert len(list(log.parent.glob("[0-9]*.log"))) < 60
    assert [old.exists() for old in (log, older_log(log))] == [True, True]
    writer.communicate()
    (log.parent / "another.log").write_text("")
    new_log_path("next")
    assert [old.exists() for old in (log, older_log(log))] == [False, False]


def test_launches_at_the_same_time_do_not_trip_over_logs_that_the_other_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    logs = tmp_path / "prefillshare" / "logs"
    logs.mkdir(parents=True)
    (logs / "kept.log").write_text("")
    removed_meanwhile = [logs / "gone.log", *logs.glob("*.log")]
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(removed_meanwhile))
    assert new_log_path("x").parent == logs


def test_a_state_directory_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(LaunchError, match="--log-file"):
        new_log_path("x")


def test_a_log_that_is_too_long_is_begun_anew_and_the_process_goes_on_in_it(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    program = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    with open_log(log) as output:
        writer = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=output, text=True)
    assert writer.stdin is not None
    for text in ("first", "second"):
        writer.stdin.write(f"{text}\n")
        writer.stdin.flush()
        _wait_until_written(log)
        assert not bound_log(log, 100)
        assert bound_log(log, 5)
        assert older_log(log).read_text() == f"{text}\n"
    writer.communicate()
    assert log.read_text() == ""
    assert older_log(log).stat().st_mode & 0o077 == 0


def _wait_until_written(log: Path) -> None:
    wait_until(lambda: log.exists() and log.stat().st_size, f"{log} is empty", pause_s=0.01)


def test_a_log_that_is_no_file_is_left_alone() -> None:
    assert not bound_log(Path("/dev/null"), 1)
    assert not bound_log(Path("/nowhere"), 1)
