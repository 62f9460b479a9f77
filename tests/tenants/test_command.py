"""A deployment file with tenants at the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.serving.machine.ports import free_port
from tests.support.engines import MODELS_DIR


@pytest.mark.parametrize("file", ["tiny-agents.toml", "tiny-agents-pd.toml"])
def test_a_launch_with_tenants_wants_the_operators_key(tmp_path: Path, file: str) -> None:
    text = (MODELS_DIR / file).read_text().replace('path = "tiny/', f'path = "{MODELS_DIR}/tiny/')
    (tmp_path / "agents.toml").write_text(f'{text}\n[tenants]\nfile = "tenants.toml"\n')
    run(tmp_path, "tenants", "new", "acme")
    port = str(free_port())
    refused = run(tmp_path, "launch", "agents.toml", "--dry-run", "--port", port)
    assert (refused.returncode, "set a key of your own as PREFILLSHARE_API_KEY" in refused.stderr) == (2, True)
    planned = run(tmp_path, "launch", "agents.toml", "--dry-run", "--port", port, key="operators")
    assert planned.returncode == 0, planned.stderr
    assert "PREFILLSHARE_TENANTS=" in planned.stdout or "pd" in file
    assert "operators" not in planned.stdout
    assert "deployment" in run(tmp_path, "doctor", "agents.toml", key="operators").stdout


def run(directory: Path, *arguments: str, key: str | None = None) -> "subprocess.CompletedProcess[str]":
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFILLSHARE_")}
    environment = own if key is None else {**own, "PREFILLSHARE_API_KEY": key}
    command = [sys.executable, "-m", "prefillshare", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
