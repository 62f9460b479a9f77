"""Whether the process that wrote something is still the one with that number."""

import contextlib
import os
from functools import lru_cache
from pathlib import Path

_START_FIELD = 22
"""Of /proc/PID/stat, counted from 1; the first two are the number and the name in brackets."""


def start_ticks(pid: int) -> int:
    """When the process began, in the kernel's ticks since boot (no clock that anybody sets); 0 when there is none.

    Raises: OSError when it cannot be known, as without a free file descriptor.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text()
        # The name may hold brackets and spaces: what follows it starts after the last bracket.
        return int(text.rpartition(")")[2].split()[_START_FIELD - 3])
    return 0


def own_start_ticks() -> int:
    """`start_ticks` of this process."""
    return _start_of(os.getpid())


def is_alive(pid: int, ticks: int) -> bool:
    """Whether the process `pid` that began at `ticks` still runs.

    Raises: OSError when it cannot be known: who is taken for dead loses what he is writing.
    """
    return pid > 0 and ticks != 0 and start_ticks(pid) == ticks


@lru_cache(maxsize=2)
def _start_of(pid: int) -> int:
    return start_ticks(pid)
