"""Ctrl-C at any moment is one word and code 130: while the command line is imported, and within a command."""

import contextlib
import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from prefillshare.open_files import is_readable

SILENCE_S = 10.0
"""Longer than a busy machine takes to hear a key that is not lost: a second one would interrupt what is said of it."""
MOMENTS = {
    "imports": """
        class Press:
            def find_spec(self, name, *_):
                if name == "prefillshare.cli.app":
                    raise KeyboardInterrupt

        sys.meta_path.insert(0, Press())
    """,
    "a command": """
        from prefillshare.serving.run import record

        def press():
            raise KeyboardInterrupt

        record.read_records = press
    """,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_is_one_word(moment: str) -> None:
    begin = "from prefillshare.cli.main import main; main()"
    program = f"import sys\n{textwrap.dedent(MOMENTS[moment])}\n{begin}"
    done = subprocess.run(
        [sys.executable, "-c", program, "ps"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def heard(terminal: int, key: bytes) -> bytes:
    """What is said next. The key is pressed again in a long silence.

    Python loses a key that comes between a prompt and the wait for its answer. Raises: OSError at the terminal's end.
    """
    while not is_readable(terminal, SILENCE_S):
        os.write(terminal, key)
    return os.read(terminal, 4096)


@pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_a_question_that_is_not_answered_is_one_word_too(key: bytes, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "prefillshare", "init", str(tmp_path / "mine.toml")]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(program[0], program)
    said = b""
    try:
        while not said.endswith(b"hub: "):
            said += os.read(terminal, 4096)
        os.write(terminal, key)
        with contextlib.suppress(OSError):  # the terminal ends with the command
            while b"interrupted" not in said:
                said += heard(terminal, key)
            # No key any more: one that comes while Python ends would end it in another way.
            while True:
                said += os.read(terminal, 4096)
    finally:
        os.close(terminal)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (code, said.decode().splitlines()[-1]) == (130, "interrupted")
    assert not list(tmp_path.iterdir())
