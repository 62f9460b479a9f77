"""Changes of modules by a launcher: whatever becomes of one, the launcher goes on, and the next one is made."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import plan_workers
from prefillshare.serving.run.launch_ground import LaunchGround
from prefillshare.serving.run.module_changes import ModuleChanger
from prefillshare.serving.run.router_process import RouterFile
from prefillshare.serving.run.supervisor import Supervisor
from tests.support.engines import MODELS_DIR

TINY_PD = MODELS_DIR / "tiny-agents-pd.toml"
FINGERPRINT = "sha256:" + "0" * 64


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def changer(tmp_path: Path, said: list[str]) -> ModuleChanger:
    """A launcher's, whose router does not answer."""
    deployment = resolve(load_deployment(TINY_PD))
    options = LaunchOptions(port=free_port(), admin_key="admin", log_path=tmp_path / "log")
    # With a worker, so that the router is one with a launcher; it is none of those that run.
    planned = plan_workers(deployment, options, "key", tmp_path)[:1]
    file = RouterFile.create(tmp_path, deployment, options, planned, "key")
    ground = LaunchGround(deployment, options, planned, file, f"http://127.0.0.1:{options.port}")
    return ModuleChanger(
        ground=ground,
        supervisor=Supervisor([], said.append),
        watch=lambda planned: pytest.fail("nothing is to be started"),
        say=said.append,
        start_timeout_s=5,
    )


def wish(changer: ModuleChanger, **members: Any) -> None:
    """Wish for a change, and step on until something has become of it."""
    folder = changer.ground._file.changes_folder
    (folder / "1-1.wish").write_text(json.dumps({"id": "1-1", **members}))
    deadline = time.monotonic() + 60
    while list(folder.glob("*.wish")) or changer.is_changing:
        changer.step()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write_adapter(folder: Path, **manifest: Any) -> Path:
    """A copy of an adapter whose manifest says something else."""
    folder.mkdir()
    for file in (MODELS_DIR / "tiny" / "math").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    told = json.loads((folder / "prefillshare.json").read_text()) | manifest
    (folder / "prefillshare.json").write_text(json.dumps(told))
    return folder


def test_a_wish_that_nobody_understands_ends_nothing(changer: ModuleChanger, said: list[str]) -> None:
    wish(changer, kind="add", name="late")
    wish(changer, kind="add", name="late", table={"path": "/nowhere"})
    assert said[1].startswith("module 'late' stays as it is: it failed (KeyError: 'table')")
    assert "is no directory of the server's machine" in said[3]


@pytest.mark.parametrize("kind", ["reload", "remove"])
def test_a_module_of_workers_that_joined_is_theirs(changer: ModuleChanger, said: list[str], kind: str) -> None:
    wish(changer, kind=kind, name="joined")
    assert "module 'joined' is that of workers which joined by themselves: stop them" in said[1]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({"prefill_fingerprint": 7}, "manifest prefill_fingerprint is 7: it must be text"),
        ({"tokenizer_sha256": ["a"]}, "manifest tokenizer_sha256 is ['a']: it must be text"),
        ({"objective": ["a"]}, "manifest objective is ['a']: it must be one of"),
        ({"prefill_fingerprint": FINGERPRINT}, "was trained on the prefill module 000000000000"),
    ],
)
def test_a_manifest_of_any_content_is_judged(
    changer: ModuleChanger, said: list[str], tmp_path: Path, manifest: dict[str, Any], reason: str
) -> None:
    folder = write_adapter(tmp_path / "late", **manifest)
    wish(changer, kind="add", name="late", table={"path": str(folder), "kind": "lora"})
    assert reason in said[1]
    assert "it failed" not in said[1]


def test_a_scale_beyond_all_floats_is_judged(changer: ModuleChanger, said: list[str], tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "late")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 10**400}))
    wish(changer, kind="add", name="late", table={"path": str(folder), "kind": "lora"})
    assert "has lora_alpha = 1000" in said[1]
    assert "it failed" not in said[1]


def test_a_manifest_without_an_end_is_judged(changer: ModuleChanger, said: list[str], tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "late")
    (folder / "prefillshare.json").write_text("[" * 100_000)
    wish(changer, kind="add", name="late", table={"path": str(folder), "kind": "lora"})
    assert "prefillshare.json cannot be read" in said[1]
