"""Text that clients chose, made fit for pages, labels and logs that everybody reads.

A name or message may hold anything a header or JSON string can: bytes that are no UTF-8 (lone surrogates by the time
Python sees them), terminal escapes, line ends, marks that turn the reading direction, a megabyte. What is written for
all goes through here; `as_json` and `exposition.exposition` fall back to it, so that no content stops a page.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

MAX_NAME = 128
"""Characters of a session's name that are shown and compared; of a longer one, its beginning and a digest."""
_DIGEST_BYTES = 6
_MAX_JSON_INT = 2**63


def make_printable(text: str) -> str:
    r"""Return `text` with everything that is not printable escaped as Python does it, such as `\x1b` or `\udce9`."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode()


def shorten(text: str, max_length: int) -> str:
    """Return `text`, or its beginning and "..." when it is longer than `max_length`."""
    return text if len(text) <= max_length else text[: max_length - 3] + "..."


def session_name(given: str) -> str:
    """Return the name under which the session that a client calls `given` is known; a known name stays as it is."""
    name = make_printable(given)
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.blake2s(given.encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{name[: MAX_NAME - len(digest) - 3]}...{digest}"


def decode_header(raw: bytes) -> str:
    """Return the text of a header value: UTF-8 where the bytes are, else Latin-1, of which every byte is a letter."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def as_json(document: Any) -> bytes:
    """Return `document` as JSON, whatever its texts hold."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        return orjson.dumps(make_writable(document), default=repr)


def make_writable(value: Any) -> Any:
    """Return `value` with every text in it printable and every number one that JSON readers take."""
    if isinstance(value, str):
        return make_printable(value)
    if isinstance(value, Mapping):
        return {make_printable(str(name)): make_writable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [make_writable(item) for item in value]
    return float(value) if isinstance(value, int) and abs(value) >= _MAX_JSON_INT else value
