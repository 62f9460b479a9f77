"""What clients send in headers, as text.

aiohttp decodes headers as UTF-8 and leaves every other byte behind as a lone surrogate, which neither JSON nor another
request can carry.
"""

from collections.abc import Mapping

from prefillshare.wire.text import decode_header, make_printable


def read_header(headers: Mapping[str, str], name: str) -> str | None:
    """Return the header's text, None without such a header."""
    value = headers.get(name)
    return None if value is None else decode_header(value.encode(errors="surrogateescape"))


def pick_headers(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Return those of the headers that are there, in printable ASCII: what every worker's server takes."""
    values = {name: read_header(headers, name) for name in names}
    return {
        name: make_printable(value).encode("ascii", "backslashreplace").decode()
        for name, value in values.items()
        if value is not None
    }
