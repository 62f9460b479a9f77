"""TOML text into tables: whatever a text holds ends in one kind of error."""

import tomllib
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 20
"""Of a file; a deployment of a thousand modules has a tenth of it."""


class NotTomlError(ValueError):
    """The text is not TOML; the message is the reason."""


def read_text(file: Path) -> str:
    """Return the text of a file or a pipe, without a byte order mark.

    Raises: OSError; NotTomlError when it is not UTF-8, or has no end in sight as /dev/zero has none.
    """
    with file.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise NotTomlError(f"it has more than {MOST_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotTomlError("it is not a text file in UTF-8") from None


def read_toml(file: Path) -> dict[str, Any]:
    """Return the tables of a file.

    Raises: OSError, NotTomlError.
    """
    return parse_toml(read_text(file))


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of `text`.

    Raises: NotTomlError.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise NotTomlError("it is nested too deeply") from None
    except ValueError as error:  # of a number with thousands of digits, too, for which the parser has no word
        raise NotTomlError(str(error)) from None
