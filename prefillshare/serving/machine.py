"""What this machine has: GPUs, cores, memory. Asked of the driver and the kernel, without importing torch."""

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One CUDA device."""

    name: str
    """Name as the driver says it."""
    memory_bytes: int
    """Total memory."""


@cache
def gpus() -> tuple[Gpu, ...]:
    """Return the CUDA devices that this process may use (CUDA_VISIBLE_DEVICES is respected); empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_gpu(driver, index) for index in range(count.value))


def available_memory_bytes() -> int | None:
    """Return the memory that can be taken without swapping, within the container's limit; None when unknown."""
    values = [value for value in (_meminfo("MemAvailable"), _cgroup_left()) if value is not None]
    return min(values, default=None)


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def default_threads() -> int:
    """Return the CPU threads for each engine process; the three processes share the cores."""
    cores = num_cores()
    return 1 if cores <= 4 else min(8, cores // 2)


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, name, size = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return Gpu(name=name.value.decode(errors="replace"), memory_bytes=size.value)


def _meminfo(key: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _cgroup_left() -> int | None:
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used) if limit.isdigit() else None
