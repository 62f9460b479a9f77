"""Compilers of engines on a GPU: found where they are, laid out as SGLang looks for them, and missed by `doctor`."""

import subprocess
from pathlib import Path

import pytest

from prefillshare.accelerators import Gpu
from prefillshare.errors import LaunchError
from prefillshare.serving import checkup
from prefillshare.serving.machine import toolkit
from prefillshare.serving.machine.patch_report import PatchReport

HIDDEN = ("CUDA_HOME", "CUDA_PATH", "CXX", "CC")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing on its PATH."""
    for name in HIDDEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(toolkit, "_SYSTEM_TOOLKIT", tmp_path / "none")
    (tmp_path / "bin").mkdir()
    return tmp_path


def test_the_packages_nvcc_is_laid_out_as_a_toolkit(bare: Path) -> None:
    variables = toolkit.compiler_variables()
    home = Path(variables["CUDA_HOME"])
    assert home == bare / "cache" / "prefillshare" / "cuda"
    told = subprocess.run([str(home / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=True)
    assert "release 13." in told.stdout
    assert (home / "include" / "cuda_bf16.h").is_file()
    assert (home / "lib64" / "libcudart.so").is_file()
    assert (Path(variables["PATH"].split(":")[-1]) / "ninja").is_file()
    assert toolkit.compiler_variables() == variables, "a second start finds it as it is"


def test_a_cache_that_cannot_be_written_is_said(bare: Path) -> None:
    (bare / "file").touch()
    with pytest.raises(LaunchError, match="set XDG_CACHE_HOME"):
        toolkit.link_toolkit(bare, bare / "file" / "cuda")


def test_a_toolkit_of_the_system_is_left_alone(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "toolkit" / "bin").mkdir(parents=True)
    (bare / "toolkit" / "bin" / "nvcc").touch(mode=0o755)
    monkeypatch.setenv("CUDA_HOME", str(bare / "toolkit"))
    assert "CUDA_HOME" not in toolkit.compiler_variables()
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("PATH", str(bare / "toolkit" / "bin"))
    assert "CUDA_HOME" not in toolkit.compiler_variables()
    assert not (bare / "cache").exists()


def _not_asked() -> PatchReport:
    return PatchReport(installed="0", pinned="0", num_symbols=0, misfits=())


def test_doctor_names_the_compilers_that_are_missing_where_a_gpu_is(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "read_patch_report", _not_asked)
    names = [finding.name for finding in checkup.examine("127.0.0.1", 1, Path("nowhere.toml"))]
    assert "compilers" not in names
    monkeypatch.setattr(checkup, "gpus", lambda: (Gpu(name="a GPU", memory_bytes=80 << 30),))
    monkeypatch.setattr(toolkit, "wheel_toolkit", lambda: None)
    found = {finding.name: finding for finding in checkup.examine("127.0.0.1", 1, Path("nowhere.toml"))}
    assert found["compilers"].state == "problem"
    assert "nvcc, a C++ compiler (c++), a C compiler (gcc)" in found["compilers"].value
    assert "build-essential" in str(found["compilers"].fix)
