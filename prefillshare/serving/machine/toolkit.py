"""The compilers that an engine calls when it first starts on a GPU, and where they are.

SGLang 0.5.17 compiles five small kernels of its own (clamped positions, activation, query/key norm, rotation, the KV
store) and FlashInfer a few more, with nvcc, a C++ compiler and ninja; Triton needs a C compiler and Python's headers.
What they made is kept below ~/.cache. nvcc and ninja come with the locked packages; the rest is the system's.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from prefillshare.errors import LaunchError
from prefillshare.places import cache_directory

_SYSTEM_TOOLKIT = Path("/usr/local/cuda")
_WHEEL_FOLDERS = ("bin", "include", "nvvm")
_CUDART = "libcudart.so.13"
_DRIVER = "libcuda.so.1"
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib")


def missing_compilers() -> list[str]:
    """Return what is missing for the kernels that are compiled at the first start on a GPU."""
    return list(_find_missing())


def _find_missing() -> Iterator[str]:
    if system_toolkit() is None and wheel_toolkit() is None:
        yield "nvcc"
    if shutil.which(os.environ.get("CXX") or "c++") is None:
        yield "a C++ compiler (c++)"
    if not os.environ.get("CC") and not (shutil.which("gcc") or shutil.which("clang")):
        yield "a C compiler (gcc)"
    if shutil.which("ninja") is None and not (_own_programs() / "ninja").exists():
        yield "ninja"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        yield "Python's headers (Python.h)"


def system_toolkit() -> Path | None:
    """Return the CUDA toolkit that SGLang would find by itself; None when there is none."""
    named, found = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"), shutil.which("nvcc")
    home = Path(named) if named else Path(found).parent.parent if found else _SYSTEM_TOOLKIT
    return home if (home / "bin" / "nvcc").exists() else None


def wheel_toolkit() -> Path | None:
    """Return the folder of nvcc among the installed packages; None when it is not there."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) / "cu13" for place in spec.submodule_search_locations or ()] if spec else []
    return next((folder for folder in folders if (folder / "bin" / "nvcc").exists()), None)


def compiler_variables() -> dict[str, str]:
    """Return the variables with which an engine finds nvcc and ninja of the installed packages; empty where it does.

    Effects: may write a folder of links below the user's cache directory.
    Raises: LaunchError when it cannot be written.
    """
    variables = {}
    if shutil.which("ninja") is None and (_own_programs() / "ninja").exists():
        variables["PATH"] = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_own_programs()}"
    wheel = wheel_toolkit()
    if system_toolkit() is None and wheel is not None:
        variables["CUDA_HOME"] = str(link_toolkit(wheel, cache_directory() / "cuda"))
    return variables


def link_toolkit(wheel: Path, root: Path) -> Path:
    """Lay the packages' nvcc out as a toolkit is: libraries below lib64, found without their version.

    Effects: writes links into `root`.
    Raises: LaunchError when they cannot be written.
    """
    try:
        _write_links(wheel, root)
    except OSError as error:
        raise LaunchError(
            f"{root} cannot be written ({error.strerror}), in which engines find nvcc: set XDG_CACHE_HOME to a folder "
            "of yours, or install a CUDA 13 toolkit"
        ) from None
    return root


def _write_links(wheel: Path, root: Path) -> None:
    for name in _WHEEL_FOLDERS:
        _link(root / name, wheel / name)
    _link(root / "lib64" / "libcudart.so", wheel / "lib" / _CUDART)
    drivers = [Path(folder) / _DRIVER for folder in _LIBRARY_FOLDERS]
    for driver in [file for file in drivers if file.exists()][:1]:
        _link(root / "lib64" / "stubs" / "libcuda.so", driver)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    part = link.with_name(f".{link.name}.{os.getpid()}")
    part.symlink_to(target)
    part.replace(link)


def _own_programs() -> Path:
    """Where the programs of the installed packages are, also when the environment is not activated."""
    return Path(sys.executable).parent
