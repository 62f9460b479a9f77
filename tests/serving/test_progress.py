"""Stages and reasons are read from the engine's log."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from prefillshare.serving.run.progress import (
    FIRST_STAGE,
    STAGES,
    find_cause_of_death,
    find_reason,
    find_stages,
    last_lines,
)
from prefillshare.serving.run.readiness import _tell_stages

TRACEBACK = """[2026-01-01 00:00:00] Scheduler hit an exception: Traceback (most recent call last):
  File "scheduler.py", line 1, in run
    raise RuntimeError("Not enough memory")
RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.

[2026-01-01 00:00:01] Received sigquit from a child process. It usually means the child failed.
Traceback (most recent call last):
  File "x.py", line 3, in <module>
EOFError
"""


def test_stages_follow_the_log() -> None:
    assert find_stages("") == [FIRST_STAGE]
    assert find_stages("[...] server_args=ServerArgs(...)") == [FIRST_STAGE, "starting the workers"]


@pytest.mark.parametrize("number", range(len(STAGES)))
def test_a_stage_that_was_over_before_anybody_looked_is_told_in_its_place(number: int) -> None:
    text, _ = STAGES[number]
    assert find_stages(f"{text} avail mem=1 GB") == [FIRST_STAGE, *(stage for _, stage in STAGES[: number + 1])]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (TRACEBACK, "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."),
        ("usage: sglang serve\nsglang serve: error: argument --dtype: invalid choice: 'x'", "argument --dtype"),
        (f"{TRACEBACK}sglang_patches: fingerprint of a.b differs: reinstall sglang", "sglang_patches: fingerprint"),
        (
            "ERROR:    [Errno 98] error while attempting to bind on address ('::1', 30000): address already in use",
            "port 30000 on ::1 was taken while the engine started: choose one with --port",
        ),
        ("nothing of interest", None),
    ],
)
def test_the_engines_own_reason_is_found(log: str, reason: str | None) -> None:
    found = find_reason(log)
    assert found == reason if reason is None else (found or "").startswith(reason)


OUTLIVED = """[2026-01-01 00:00:00] accept failed
Traceback (most recent call last):
  File "selector_events.py", line 1, in accept
OSError: [Errno 24] Too many open files
"""
CALLS = 50 * "[2026-01-01 00:10:00] INFO:     127.0.0.1:1 - POST /generate HTTP/1.1 200 OK\n"


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        (OUTLIVED + CALLS, -9, None),
        (OUTLIVED, -9, None),
        (
            f"{OUTLIVED}[x] Subprocess scheduler_0 (pid=7) crashed with exit code -9. Triggering SIGQUIT\n",
            -9,
            "scheduler_0 (pid=7) crashed with exit code -9",
        ),
        (OUTLIVED + CALLS, 3, None),
        (OUTLIVED + CALLS + TRACEBACK, -9, "RuntimeError: Not enough memory."),
        (OUTLIVED + CALLS + TRACEBACK, 1, "RuntimeError: Not enough memory."),
        (OUTLIVED + CALLS + "Traceback (most recent call last):\nValueError: at last", 1, "ValueError: at last"),
    ],
)
def test_what_an_engine_went_on_after_is_no_cause_of_its_death(log: str, code: int, reason: str | None) -> None:
    found = find_cause_of_death(log, code)
    assert found == reason if reason is None else (found or "").startswith(reason)


def test_last_lines_skip_empty_ones() -> None:
    assert last_lines("a\n\nb\n \nc\n", 2) == ["b", "c"]


def test_of_several_processes_each_stage_is_told_once_when_the_slowest_begins_it(tmp_path: Path) -> None:
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    processes = [(SimpleNamespace(log_path=log), "") for log in logs]
    told: list[str] = []
    heard: list[str] = []
    for first, second in [("", ""), ("KV Cache is allocated", ""), ("KV Cache is allocated", "KV Cache is allocated")]:
        logs[0].write_text(first)
        logs[1].write_text(second)
        _tell_stages(processes, told, heard.append)
        assert heard == ([FIRST_STAGE] if not second else [FIRST_STAGE, *(stage for _, stage in STAGES)])
