"""Reading a call that came whole and has nothing unusual in it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prefillshare.routing.call.call import Endpoint

MAX_HEAD_BYTES = 8000
"""Of request line and headers; less than aiohttp's own limit on a single one."""
MAX_BODY_BYTES = 1 << 20
"""A larger body is read by aiohttp, which holds up a client that sends faster than it is read."""
_MAX_HEADERS = 64
_ENDPOINTS: tuple[Endpoint, ...] = ("/v1/chat/completions", "/v1/completions", "/generate")
_STARTS: dict[bytes, Endpoint] = {f"POST {path} HTTP/1.1".encode(): path for path in _ENDPOINTS}
_METHOD = b"POST /"
# Names are tokens, values have no control characters but tabs, lines end by CR LF and none goes on in the next: what
# any two readers of HTTP understand alike.
_HEADERS = re.compile(rb"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*)*")
_LENGTH = re.compile(rb"[0-9]{1,8}")
_JSON = frozenset((b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"))
_STAYS = frozenset((None, b"keep-alive", b"Keep-Alive"))
_ENDS = frozenset((b"close", b"Close"))
_UNUSUAL = (
    b"transfer-encoding",
    b"content-encoding",
    b"expect",
    b"upgrade",
    b"trailer",
    b"te",
    b"http2-settings",
    b"proxy-connection",
    b"origin",
)


class Headers(Mapping[str, str]):
    """A request's headers by name, of whatever case; text as aiohttp gives it (`routing/headers.py`)."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[bytes, bytes]) -> None:
        """`values` are by names in small letters."""
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower().encode()].decode("utf-8", "surrogateescape")

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """Return the header's text."""
        value = self._values.get(name.lower().encode())
        return default if value is None else value.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (name.decode() for name in self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(slots=True, kw_only=True)
class Asked:
    """One call as it came."""

    path: Endpoint
    """Path of the request line, which has nothing else."""
    headers: Headers
    """Its headers."""
    stays: bool
    """Whether the client wants to go on with the connection."""
    start: int
    """Where the body begins."""
    end: int
    """Where the next request begins."""
    method: str = "POST"
    """Method of the request line."""


def may_be_call(data: bytes) -> bool:
    """Whether a call begins with `data`, or could when more has come."""
    return data.startswith(_METHOD) or _METHOD.startswith(data)


def read_head(data: bytes) -> Asked | None:
    """Return the ordinary call whose head `data` begins with; None when it has none, or none that is whole.

    Its body need not be there.
    """
    head_end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    line_end = data.find(b"\r\n", 0, MAX_HEAD_BYTES)
    path = _STARTS.get(data[:line_end])
    if head_end < 0 or path is None or not _HEADERS.fullmatch(data, line_end, head_end):
        return None
    values = _read_values(data[line_end + 2 : head_end])
    # A call without Host is refused by aiohttp: two servers that guess one may guess two.
    if values is None or b"host" not in values or not values.keys().isdisjoint(_UNUSUAL):
        return None
    if values.get(b"content-type") not in _JSON:
        return None
    connection, length = values.get(b"connection"), values.get(b"content-length", b"")
    if not _LENGTH.fullmatch(length) or not (connection in _STAYS or connection in _ENDS):
        return None
    start = head_end + 4
    return Asked(path=path, headers=Headers(values), stays=connection in _STAYS, start=start, end=start + int(length))


def _read_values(lines: bytes) -> dict[bytes, bytes] | None:
    """Return values by names in small letters; None when a name comes twice or there are many."""
    values: dict[bytes, bytes] = {}
    num_lines = 0
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        values[name.lower()] = value.strip(b" \t")
        num_lines += 1
    return values if num_lines == len(values) <= _MAX_HEADERS else None
