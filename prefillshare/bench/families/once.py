"""Weights that are made when they are first wanted, and kept: whole or not there."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from prefillshare.errors import BenchError


def write_once(path: Path, what: str, tell: Callable[[str], None], write: Callable[[Path], None]) -> Path:
    """Return `path`, written by `write` if it is not there, which `tell` hears of as `what`: complete, or not at all.

    Raises: BenchError when it cannot be written.
    """
    if path.is_dir():
        return path
    tell(what)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            write(staging)
            staging.rename(path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        if not path.is_dir():  # else another run was faster
            raise BenchError(f"{path} cannot be written ({error.strerror or error}): free some space there") from None
    return path
