"""What a router leaves where its supervisor said: small files, read whole."""

from pathlib import Path

import orjson

from prefillshare.naming.alias import AnyAlias, read_aliases


def read_kept_aliases(file: Path | None) -> dict[str, AnyAlias] | None:
    """Return the aliases as a router before this one left them; None when none has changed any."""
    if file is None or not file.is_file():
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
