"""Files for what engines say: one per process, below the user's state directory; the oldest are removed when nobody
writes to them any more.

A file that has grown to `MAX_LOG_BYTES` becomes the `.old` one beside it, and is begun anew.
"""

import contextlib
import os
import shutil
import time
from pathlib import Path

from prefillshare.errors import LaunchError
from prefillshare.open_files import is_log_in_use, open_log
from prefillshare.places import state_directory

MAX_LOG_BYTES = 64 << 20
_NUM_KEPT_LOGS = 60


def new_log_path(name: str) -> Path:
    """Return a new file for the log of deployment `name` below the user's state directory; old ones are removed."""
    root = state_directory() / "logs"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LaunchError(
            f"no log can be written below {root} ({error.strerror}): name a file with --log-file"
        ) from None
    for old in sorted(root.glob("*.log"), key=_written_at)[: -_NUM_KEPT_LOGS + 1]:
        # One that runs for months may have said nothing lately.
        if not is_log_in_use(_log_of(old)):
            old.unlink(missing_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return root / f"{_file_name(name)}-{stamp}-{os.getpid()}.log"


def _written_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # another launch has removed it meanwhile
        return 0.0


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def check_log_file(path: Path) -> None:
    """Make sure that a log can be written to `path`, which makes no folder.

    Raises: LaunchError.
    """
    if not path.parent.is_dir():
        raise LaunchError(f"the folder of --log-file {path} does not exist: make {path.parent} first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise LaunchError(f"--log-file {path} cannot be written: name a file in a folder of yours")


def bound_log(path: Path, most_bytes: int = MAX_LOG_BYTES) -> bool:
    """Keep a log that is too long as `older_log(path)`, in place of the one before, and empty it; return whether so.

    Its processes have it open for appending, so they go on at its new beginning. What they say between copy and cut is
    lost: a file cannot be taken from them.
    """
    try:
        if path.stat().st_size < most_bytes:
            return False
    except OSError:
        return False
    older = older_log(path)
    try:
        with path.open("rb") as source, open_log(older) as target:
            shutil.copyfileobj(source, target)
    except OSError:  # a full disk: it must not stay full of logs
        older.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.truncate(path, 0)
    return True


def older_log(path: Path) -> Path:
    """Return the file that holds what a log had before it was begun anew."""
    return path.with_suffix(f".old{path.suffix}")


def _log_of(path: Path) -> Path:
    """Return the log that a file belongs to: itself, or that of which it is the `older_log`."""
    return path.with_name(f"{path.stem.removesuffix('.old')}{path.suffix}")
