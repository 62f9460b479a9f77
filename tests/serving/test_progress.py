"""Stages and reasons are read from the engine's log."""

import pytest

from prefillshare.serving.progress import FIRST_STAGE, last_lines, reason_of, stage_of

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
    assert stage_of("") == FIRST_STAGE
    assert stage_of("[...] server_args=ServerArgs(...)") == "starting the workers"
    assert stage_of("server_args=\nLoad weight begin. avail mem=1 GB") == "loading the prefill module"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (TRACEBACK, "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."),
        ("usage: sglang serve\nsglang serve: error: argument --dtype: invalid choice: 'x'", "argument --dtype"),
        (f"{TRACEBACK}sglang_patches: fingerprint of a.b differs: reinstall sglang", "sglang_patches: fingerprint"),
        ("nothing of interest", None),
    ],
)
def test_the_engines_own_reason_is_found(log: str, reason: str | None) -> None:
    found = reason_of(log)
    assert found == reason if reason is None else (found or "").startswith(reason)


def test_last_lines_skip_empty_ones() -> None:
    assert last_lines("a\n\nb\n \nc\n", 2) == ["b", "c"]
