"""An engine that is not patched as a whole does not start (I8)."""

import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from prefillshare.errors import LaunchError
from tests.support.engines import MODELS_DIR, TINY_AGENTS, Endpoint, plain_engine, shared_engine

CHANGED = "srt/lora/lora_manager.py"


@pytest.fixture
def changed_sglang(tmp_path: Path) -> Path:
    """A directory whose ``sglang`` differs from the installed one in one line of one patched method."""
    [installed] = find_spec("sglang").submodule_search_locations
    subprocess.run(["cp", "-rs", installed, tmp_path / "sglang"], check=True)
    file = tmp_path / "sglang" / CHANGED
    source = file.read_text()
    file.unlink()
    line = "        bs = forward_batch.batch_size\n"
    assert source.count(line) == 1
    file.write_text(source.replace(line, line + "        assert bs\n"))
    yield tmp_path
    shutil.rmtree(tmp_path / "sglang")


@pytest.mark.engine
def test_a_changed_upstream_symbol_stops_the_server_with_its_name(changed_sglang):
    path = f"{changed_sglang}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with pytest.raises(LaunchError) as error, shared_engine(environment={"PYTHONPATH": path}):
        pass
    message = str(error.value)
    assert "LoRAManager.prepare_lora_batch" in message
    assert "has fingerprint" in message
    assert str(changed_sglang / "sglang" / CHANGED) in message


@pytest.mark.engine
def test_without_the_plugin_the_backend_does_not_exist():
    flags = ("--radix-cache-backend", "prefillshare")
    with pytest.raises(LaunchError, match="prefillshare"), plain_engine(TINY_AGENTS, *flags):
        pass


@pytest.mark.engine
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--speculative-algorithm", "NGRAM"), "does not support speculative decoding"),
        (("--enable-hierarchical-cache",), "does not support HiCache"),
    ],
)
def test_an_unsupported_setting_is_refused_in_one_sentence(flags, reason):
    with pytest.raises(LaunchError, match=reason), shared_engine(TINY_AGENTS, *flags):
        pass


def _load(agents: Endpoint, name: str, path: Path) -> str:
    reply = agents.http.post("/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)})
    return "" if reply.status_code == 200 else reply.text


def test_an_adapter_that_comes_later_is_judged_like_those_of_the_file(agents: Endpoint, tmp_path: Path) -> None:
    math = MODELS_DIR / "tiny" / "math"
    assert "accept_naive = true" in _load(agents, "ordinary", MODELS_DIR / "tiny" / "naive" / "math")

    unknown = Path(shutil.copytree(math, tmp_path / "unknown"))
    (unknown / "prefillshare.json").unlink()
    assert "so how it was trained is unknown" in _load(agents, "unknown", unknown)

    two_files = Path(shutil.copytree(math, tmp_path / "two-files"))
    shutil.copyfile(math / "adapter_model.safetensors", two_files / "old.safetensors")
    assert "old.safetensors" in _load(agents, "two-files", two_files)

    other_base = Path(shutil.copytree(math, tmp_path / "other-base"))
    config = json.loads((math / "adapter_config.json").read_text())
    (other_base / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
    assert "init_lora_weights = 'pissa'" in _load(agents, "other-base", other_base)

    assert _load(agents, "again", math) == ""
    prompt = list(range(20, 60))
    assert agents.generate(prompt, "again", 8).tokens == agents.generate(prompt, "math", 8).tokens
    assert agents.http.post("/unload_lora_adapter", json={"lora_name": "again"}).status_code == 200
