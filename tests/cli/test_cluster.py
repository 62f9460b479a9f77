"""What the commands for a cluster say when they cannot begin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engines import MODELS_DIR

FILE = str(MODELS_DIR / "tiny-agents-pd.toml")
NOBODY = ("--cluster", "127.0.0.1:9")
CASES = {
    "no name": (("logs", *NOBODY), 5, "no Ray cluster answers at 127.0.0.1:9"),
    "no address": (("launch", FILE, "--cluster", "here"), 2, "write HOST:PORT"),
    "no token": (("launch", FILE, *NOBODY), 2, "has no token_file"),
    "one engine": (("launch", str(MODELS_DIR / "tiny-agents.toml"), *NOBODY), 2, 'topology = "disaggregated"'),
    "a key": (("launch", FILE, *NOBODY, "--api-key", "k"), 2, "write api_key_file"),
    "nobody there": (("ps", *NOBODY), 5, "no Ray cluster answers at 127.0.0.1:9"),
    "logs of nobody": (("logs", "decode-math-0"), 2, "name the address of a cluster with --cluster"),
    "no size": (("scale", "math", *NOBODY), 2, "write MODULE=N"),
    "two sizes": (("scale", "math=2", "math=3", *NOBODY), 2, "math is to be 2 and 3"),
    "no port": (("ps", "--cluster", "127.0.0.1:99999"), 2, "a port up to 65535"),
    "no client server": (("ps", "--cluster", "ray://127.0.0.1:9"), 5, "--ray-client-server-port=9"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_names_the_fix(case: str, tmp_path: Path) -> None:
    arguments, code, said = CASES[case]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFILLSHARE_")}
    done = subprocess.run(
        [sys.executable, "-m", "prefillshare", *arguments],
        env={**environment, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
