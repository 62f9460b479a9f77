"""Where modules of codebook weights may stand."""

import json
from pathlib import Path

import pytest

from prefillshare.codebook.kernels.layout import KERNEL_VARIABLE
from prefillshare.codebook.section import quantization_section
from prefillshare.codebook.shape import CodebookShape
from prefillshare.errors import ModuleError
from prefillshare.modules.codebook_rule import refuse_on_gpu


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantization_section(CodebookShape())}))
    return tmp_path


def test_gpus_take_one_only_when_asked_to(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNEL_VARIABLE, raising=False)
    with pytest.raises(ModuleError, match=rf"try them with {KERNEL_VARIABLE}=triton in the environment of launch"):
        refuse_on_gpu(module, "math")
    monkeypatch.setenv(KERNEL_VARIABLE, "vbmi")
    with pytest.raises(ModuleError, match=r"'math' in .* has 2-bit codebook weights"):
        refuse_on_gpu(module, "math")
    monkeypatch.setenv(KERNEL_VARIABLE, "triton")
    refuse_on_gpu(module, "math")


def test_other_modules_are_not_asked_about(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    refuse_on_gpu(tmp_path, "math")
