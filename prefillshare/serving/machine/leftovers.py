"""What killed engines leave in shared memory: an engine removes its own at its end, unless it had none.

SGLang keeps a page of load figures for each engine in /dev/shm, mapped by its processes as long as they run
(`managers/load_snapshot.py` at 0.5.17). The launcher removes what an engine that it kills had mapped; of one that was
killed by others nobody knows any more what it had.
"""

import contextlib
import os
import time
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_NAMES = "sglang_loads_*.shm"
_YOUNG_S = 60.0
"""An engine that starts makes its file before it has it mapped."""


def sweep_leftovers(folder: Path = _SHARED_MEMORY) -> list[Path]:
    """Remove load figures of this user's engines that no process has mapped any more; return their paths."""
    found = [path for path in folder.glob(_NAMES) if _may_be_left(path)]
    used = _mapped_below(str(folder)) if found else set()
    left = [path for path in found if str(path) not in used]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def _may_be_left(path: Path) -> bool:
    with contextlib.suppress(OSError):
        status = path.lstat()
        return status.st_uid == os.getuid() and time.time() - status.st_mtime > _YOUNG_S
    return False


def _mapped_below(folder: str) -> set[str]:
    """Files of the folder that a process of this user has mapped; others' cannot be looked at."""
    mapped: set[str] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                lines = (process / "maps").read_text(errors="replace").splitlines()
                mapped |= {line[start:] for line in lines if (start := line.find(folder)) >= 0}
    return mapped
