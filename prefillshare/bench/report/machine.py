"""Where a measurement was made, and with what."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import prefillshare
from prefillshare.accelerators import gpus
from prefillshare.serving.machine.host import available_memory_bytes, num_cores

_PACKAGES = ("sglang", "torch", "transformers", "nixl", "aiohttp")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, GPUs and versions."""
    memory = available_memory_bytes()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "processor": processor_name(),
        "cores": num_cores(),
        # Says whether others were working; seconds measured then mean little.
        "load average before the start": f"{os.getloadavg()[0]:.1f}",
        "free memory [GiB]": round(memory / 2**30, 1) if memory else None,
        "GPUs": [f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB" for gpu in gpus()],
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "prefillshare": prefillshare.__version__,
        **{name: _version(name) for name in _PACKAGES},
    }


def processor_name() -> str:
    """The processor's name as the kernel knows it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
