"""What a router leaves where its supervisor said: small files, read whole."""

from pathlib import Path

import orjson

from prefillshare.naming.changes import Change, read_changes


def read_kept_changes(file: Path | None) -> dict[str, Change]:
    """Return what was changed about the aliases in earlier lives of the router; nothing where none has changed any."""
    if file is None or not file.is_file():
        return {}
    return read_changes(orjson.loads(file.read_bytes()))


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
