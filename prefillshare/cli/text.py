"""Text that people give: bytes that are none are refused where they come in, with the place."""

import math
import sys
from collections.abc import Iterator
from typing import TextIO, TypeVar

import typer

from prefillshare.errors import ConfigError

T = TypeVar("T", str, list[str], None)


def decode_text(content: bytes, what: str, stream: TextIO | None = None) -> str:
    """Return bytes that a person gave as text, without the mark that some programs put before it.

    `stream` tells the encoding that the user's locale asks for.
    Raises: ConfigError that names the first byte that does not belong.
    """
    encoding = (stream.encoding if stream is not None else None) or "utf-8"
    # ASCII is what Python falls back to where no locale is set.
    encoding = "utf-8-sig" if encoding.lower().replace("-", "") in ("utf8", "ascii", "usascii") else encoding
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "utf-8-sig" else encoding
        raise ConfigError(
            f"{what} is not {name} text: byte 0x{error.object[error.start]:02x} after {error.start} others; convert "
            f"it first, such as with `iconv -f latin1 -t utf-8`"
        ) from None


def check_text(text: str, what: str) -> str:
    """Return text of the command line or of a terminal as it is.

    Raises: ConfigError when it holds bytes that are no text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        # Python keeps such bytes as lone surrogates.
        return decode_text(text.encode(errors="surrogateescape"), what)
    return text


def text_option(parameter: typer.CallbackParam, value: T) -> T:
    """For `callback=` of an option or argument that is text for a server, or several of it."""
    texts: list[str] = [value] if isinstance(value, str) else value or []
    for text in texts:
        check_text(text, f"{parameter.name}")
    return value


def number_option(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """For `callback=` of an option that is a number: "nan" and "inf" are numbers to Python, and get past any limit."""
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"{parameter.opts[0]} is {value}: give a number with an end")
    return value


def key_option(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """For `callback=` of an option that goes into an HTTP header."""
    if value is not None and not is_sendable(value):
        raise ConfigError(f"{parameter.name} {value!a} cannot be sent: a key is printable ASCII, without line breaks")
    return value


def is_sendable(key: str) -> bool:
    """Whether a key can go into an HTTP header."""
    return key.isascii() and key.isprintable()


def read_stdin(what: str) -> str:
    """Everything on stdin.

    Raises: ConfigError when it is no text.
    """
    return decode_text(sys.stdin.buffer.read(), what, sys.stdin)


def stdin_lines(what: str) -> Iterator[str]:
    """The lines of stdin as they come, without their ends.

    Raises: ConfigError with the number of a line that is no text.
    """
    for number, line in enumerate(sys.stdin.buffer, start=1):
        yield decode_text(line, f"line {number} of {what}", sys.stdin).rstrip("\r\n")


def print_all_text() -> None:
    """Let text that stdout and stderr cannot encode appear as escapes, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def can_print_unicode() -> bool:
    """Whether stdout takes any text as it is."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
