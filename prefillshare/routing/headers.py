"""What clients send in headers, as text.

aiohttp decodes headers as UTF-8 and leaves every other byte behind as a lone surrogate, which neither JSON nor another
request can carry.
"""

from collections.abc import Mapping

from prefillshare.wire.text import header_text, printable


def read_header(headers: Mapping[str, str], name: str) -> str | None:
    """Return the header's text, None without such a header."""
    value = headers.get(name)
    return None if value is None else header_text(value.encode(errors="surrogateescape"))


def passed_on(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Return those of the headers that are there, in printable ASCII."""
    values = {name: read_header(headers, name) for name in names}
    return {
        name: printable(value).encode("ascii", "backslashreplace").decode()
        for name, value in values.items()
        if value is not None
    }
