"""How a body must be declared, and how a stream that has failed begins: one rule for the router and for the engines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

_CHARSETS = frozenset(("", "utf-8", "utf8", "us-ascii", "ascii"))
"""Names of charsets that JSON may be said to be in; none is named by most clients."""
_ENCODINGS = frozenset(("", "identity"))
_FAILED = b'data: {"error"'


def is_uncompressed(content_encoding: str) -> bool:
    """Whether a body with this Content-Encoding, empty for none, is sent as it is."""
    return content_encoding.strip().lower() in _ENCODINGS


def is_utf_8(charset: str) -> bool:
    """Whether JSON in this charset, empty for none, is UTF-8."""
    return charset.lower() in _CHARSETS


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamError:
    """The error with which a stream begins: SGLang has sent the status 200 by then."""

    status: int
    """What the status would have been."""
    message: str
    """The reason."""
    body: bytes
    """The JSON object that holds it, as it came."""


def read_stream_error(first: bytes) -> StreamError | None:
    """Return the error with which a stream begins whose first piece is `first`; None when it begins otherwise."""
    if not first.startswith(_FAILED):
        return None
    body = first.split(b"\n", 1)[0].removeprefix(b"data: ")
    try:
        error: Mapping[str, Any] = orjson.loads(body)["error"]
        status = int(error["code"])
    except (ValueError, TypeError, KeyError):
        return None
    status = status if 400 <= status < 600 else 500
    return StreamError(status=status, message=str(error.get("message")), body=body)
