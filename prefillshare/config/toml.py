"""TOML text into tables: whatever a text holds ends in one kind of error."""

import tomllib
from typing import Any


class NotTomlError(ValueError):
    """The text is not TOML; the message is the reason."""


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
