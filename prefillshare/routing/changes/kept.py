"""What a router leaves in the folder that its launcher made: small files, read whole."""

from pathlib import Path

import orjson

from prefillshare.contract import ALIASES_FILE
from prefillshare.naming.alias import AnyAlias, read_aliases


def read_kept_aliases(folder: Path | None) -> dict[str, AnyAlias] | None:
    """Return the aliases as a router before this one left them; None when none has changed any."""
    if folder is None or not (file := folder / ALIASES_FILE).is_file():
        return None
    return read_aliases(orjson.loads(file.read_bytes()))


def write_whole(file: Path, content: object) -> None:
    """Write JSON into a file; whoever looks sees all of it or nothing.

    Raises: OSError.
    """
    partial = file.with_suffix(".partial")
    try:
        partial.write_bytes(orjson.dumps(content))
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
