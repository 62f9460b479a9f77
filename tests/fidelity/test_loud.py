"""An engine that is not patched as a whole does not start (I8)."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from prefillshare.errors import LaunchError
from tests.support.engines import TINY_AGENTS, plain_engine, shared_engine

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


def test_a_changed_upstream_symbol_stops_the_server_with_its_name(changed_sglang):
    path = f"{changed_sglang}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with pytest.raises(LaunchError) as error, shared_engine(environment={"PYTHONPATH": path}):
        pass
    message = str(error.value)
    assert "LoRAManager.prepare_lora_batch" in message
    assert "has fingerprint" in message
    assert str(changed_sglang / "sglang" / CHANGED) in message


def test_without_the_plugin_the_backend_does_not_exist():
    flags = ("--radix-cache-backend", "prefillshare")
    with pytest.raises(LaunchError, match="prefillshare"), plain_engine(TINY_AGENTS, *flags):
        pass


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
