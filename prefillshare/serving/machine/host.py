"""What this machine has beside its GPUs (`prefillshare.accelerators`): cores and memory, asked of the kernel."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_memory_bytes() -> int | None:
    """Return the memory that can be taken without swapping, within the container's limit; None when unknown."""
    values = [value for value in (_read_meminfo("MemAvailable"), _read_cgroup_left()) if value is not None]
    return min(values, default=None)


def total_memory_bytes() -> int | None:
    """Return all the memory that there is, within the container's limit; None when unknown."""
    values = [value for value in (_read_meminfo("MemTotal"), _read_cgroup_limit()) if value is not None]
    return min(values, default=None)


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def default_threads() -> int:
    """Return the CPU threads for each engine process; the three processes share the cores."""
    cores = num_cores()
    return 1 if cores <= 4 else min(8, cores // 2)


def _read_meminfo(key: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _read_cgroup_left() -> int | None:
    limit = _read_cgroup_limit()
    try:
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return max(0, limit - used) if limit is not None else None


def _read_cgroup_limit() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return int(limit) if limit.isdigit() else None
