"""How a body must be declared, and how a stream that has failed begins: one rule for the router and for the engines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from prefillshare.wire.errors import error_object
from prefillshare.wire.text import as_json

_CHARSETS = frozenset(("", "utf-8", "utf8", "us-ascii", "ascii"))
"""Names of charsets that JSON may be said to be in; none is named by most clients."""
_ENCODINGS = frozenset(("", "identity"))
_FAILED = b'data: {"error"'
_FAILED_MESSAGE = b"event: error\ndata: "
_NOTHING = b'data: {"text":"","output_ids":[],"meta_info":{'
"""A piece of `/generate` without a token, such as the end of a call that was refused."""
_STATUSES = {"invalid_request_error": 400, "not_found_error": 404, "overloaded_error": 503}
"""Of Anthropic's errors, which a stream tells by their type."""


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
    if first.startswith(_FAILED_MESSAGE):
        return _read_message_error(first.removeprefix(_FAILED_MESSAGE).split(b"\n", 1)[0])
    if first.startswith(_NOTHING):
        return _read_refusal(first.split(b"\n", 1)[0].removeprefix(b"data: "))
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


def _read_message_error(body: bytes) -> StreamError | None:
    try:
        error: Mapping[str, Any] = orjson.loads(body)["error"]
        return StreamError(status=_STATUSES.get(error["type"], 500), message=str(error["message"]), body=body)
    except (ValueError, TypeError, KeyError):
        return None


def _read_refusal(body: bytes) -> StreamError | None:
    """The reason of SGLang's scheduler, which stands where an answer says how it ended; a caller's abort gives none."""
    try:
        end: Mapping[str, Any] = orjson.loads(body)["meta_info"]["finish_reason"]
        status, message = int(end["status_code"]), str(end["message"])
    except (ValueError, TypeError, KeyError):
        return None
    if not 400 <= status < 600:
        return None
    error = error_object(message, kind="invalid_request_error" if status < 500 else "server_error")
    return StreamError(status=status, message=message, body=as_json({"error": error}))
