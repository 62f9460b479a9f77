"""A deployment file with tenants at the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import plan_warnings
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan import tenants as plan_tenants
from prefillshare.serving.plan.processes import plan_engine
from prefillshare.tenants.file import read_tenants
from tests.support.engines import MODELS_DIR, TINY_AGENTS
from tests.support.tenants import write_tenants


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


def test_a_launcher_reads_the_file_once_before_the_engine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tenants(tmp_path / "tenants.toml", acme={})
    changes = (f"tenants.file={tmp_path / 'tenants.toml'}",)
    deployment = resolve(load_deployment(TINY_AGENTS, changes))
    seen: list[Path] = []
    monkeypatch.setattr(plan_tenants, "read_tenants", lambda path: seen.append(path) or read_tenants(path))
    options = LaunchOptions(api_key="the-operators")
    plan_warnings(deployment, options)
    plan_engine(deployment, options)
    assert seen == [tmp_path / "tenants.toml"]
    with pytest.raises(ConfigError, match="PREFILLSHARE_API_KEY"):
        plan_engine(deployment, LaunchOptions())
