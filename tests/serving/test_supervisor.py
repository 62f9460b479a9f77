"""A process that died is started again, later each time, and given up in the end; real processes, no waiting."""

import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.observe.document import Role
from prefillshare.serving.options import MAX_RESTARTS, RESTART_WINDOW_S
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.run import supervisor
from prefillshare.serving.run.process import EngineProcess, start_engine
from prefillshare.serving.run.supervisor import Supervised, Supervisor

SLEEPING = "import time; time.sleep(100)"


def _supervised(tmp_path: Path, program: str = SLEEPING, name: str = "decode-math-0") -> Supervised:
    def start() -> EngineProcess:
        argv = (sys.executable, "-c", program)
        return start_engine(ProcessCommand(argv=argv, environment={}, api_key=None), tmp_path / f"{name}.log")

    role: Role = "prefill" if name.startswith("prefill") else "decode"
    return Supervised(name=name, role=role, url="http://127.0.0.1:1", start=start, is_ready=lambda: True)


def _end(member: Supervised) -> None:
    assert member.process is not None
    member.process.main.send_signal(9)
    member.process.main.wait(timeout=120)


def test_a_killed_process_is_back_after_a_pause(tmp_path: Path) -> None:
    said: list[str] = []
    member = _supervised(tmp_path)
    keeper = Supervisor([member], said.append)
    keeper.begin()
    try:
        keeper.step()
        assert (member.state, member.num_restarts) == ("running", 0)
        first = member.process
        _end(member)
        now = time.monotonic()
        member.step(said.append, now)
        assert (member.state, member.process) == ("restarting", None)
        assert "decode-math-0 ended: killed by signal 9" in said[-1]
        member.step(said.append, now + supervisor.FIRST_DELAY_S / 2)
        assert member.process is None
        member.step(said.append, now + supervisor.FIRST_DELAY_S)
        assert member.process is not None
        assert member.process is not first
        member.step(said.append, now + 1)
        assert (member.state, member.num_restarts) == ("running", 1)
        assert said[-1] == "decode-math-0 is back"
    finally:
        keeper.kill()
    assert member.process.exit_code() is not None


def test_a_process_that_is_started_again_without_a_log_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    member = _supervised(tmp_path)
    keeper = Supervisor([member], said.append)
    keeper.begin()
    try:
        _end(member)
        now = time.monotonic()
        member.step(said.append, now)
        command = ProcessCommand(argv=(sys.executable, "-c", SLEEPING), environment={}, api_key=None)
        member.start = lambda: start_engine(command, Path("/dev/full"), is_restart=True)
        member.step(said.append, now + supervisor.FIRST_DELAY_S)
        member.step(said.append, now + 1)
        assert member.state == "running"
        assert [text for text in said if "/dev/full" in text] == [
            "decode-math-0 is started again, and what it says is not kept: its log /dev/full cannot be written "
            "(No space left on device)"
        ]
    finally:
        keeper.kill()


def test_pauses_grow_and_a_hopeless_process_is_given_up_loudly(tmp_path: Path) -> None:
    said: list[str] = []
    member = _supervised(tmp_path, "raise SystemExit('sglang_patches: no such thing')")
    keeper = Supervisor([member], said.append)
    keeper.begin()
    now, pauses = 0.0, []
    while member.state != "failed":
        assert member.process is not None
        member.process.main.wait(timeout=120)
        member.step(said.append, now)
        pauses.append(member._next_start - now)
        now = member._next_start
        member.step(said.append, now)
    assert pauses[:MAX_RESTARTS] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert "given up: sglang_patches: no such thing" in said[-1]
    assert keeper.lost_role() == "decode"
    keeper.members.append(_supervised(tmp_path, name="decode-math-1"))
    assert keeper.lost_role() is None


def test_what_a_process_said_before_it_ended_is_kept_and_is_not_the_next_ones_reason(tmp_path: Path) -> None:
    said: list[str] = []
    program, log = "print('ValueError: of life', len(open({log!r}).readlines()), flush=True)", tmp_path / "router.log"
    argv = (sys.executable, "-c", program.format(log=str(log)))
    lives = itertools.count()

    def start() -> EngineProcess:
        command = ProcessCommand(argv=argv, environment={}, api_key=None)
        return start_engine(command, log, is_restart=next(lives) > 0)

    member = Supervised(name="router", role="router", url="http://127.0.0.1:1", start=start, is_ready=lambda: False)
    member.begin()
    for now in (0.0, 10.0):
        assert member.process is not None
        member.process.main.wait(timeout=120)
        member.step(said.append, now)
        member.step(said.append, now + 5.0)
    Supervisor([member], said.append).kill()
    assert [text.partition("; ")[0] for text in said] == [
        f"router ended: ValueError: of life {lines} (log {log})" for lines in (1, 3)
    ]
    assert log.read_text().count("ValueError") >= 4


@pytest.mark.parametrize(
    ("pause_s", "serves_between", "gives_up"),
    [(RESTART_WINDOW_S, True, False), (1.0, True, True), (RESTART_WINDOW_S, False, True)],
)
def test_deaths_count_that_are_close_to_each_other_and_starts_that_never_serve(
    tmp_path: Path, pause_s: float, serves_between: bool, gives_up: bool
) -> None:
    """A large engine takes minutes to fail at its start: it is not started for ever."""
    member = _supervised(tmp_path)
    for number in range(MAX_RESTARTS + 2):
        if serves_between:
            member.state = "running"
        member._count_death(lambda text: None, number * (pause_s + 0.1), "killed")
    assert (member.state == "failed") == gives_up


def test_a_process_that_is_not_to_be_started_again_is_given_up_at_its_death(tmp_path: Path) -> None:
    said: list[str] = []
    member = replace(_supervised(tmp_path), max_restarts=0)
    keeper = Supervisor([member], said.append)
    keeper.begin()
    keeper.step()
    _end(member)
    keeper.step()
    assert (member.state, member.process, keeper.lost_role()) == ("failed", None, "decode")
    assert said[0].startswith("decode-math-0 ended and is not started again: killed by signal 9 (log ")
    assert member.reason() == member.last_end
