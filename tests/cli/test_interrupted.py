"""Ctrl-C at any moment is one word and code 130: while the command line is imported, and within a command."""

import subprocess
import sys
import textwrap

import pytest

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
