"""Answers of tenants' calls on their way: how many tokens they have.

Other answers pass through unread. These are looked into, and workers are asked to tell the usage at the end of streams
too; a client that has not asked for that is not shown it. Of a stream that ends before its usage comes, pieces count.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from prefillshare.routing.call.call import Body, Endpoint
from prefillshare.routing.call.caller import Caller, StreamWriter
from prefillshare.tenants.account import Account

_END = b"\n\n"
_USAGE = re.compile(rb'"(?:usage|meta_info)":\s*\{')
_ONLY_USAGE = re.compile(rb'"choices":\s*\[\s*\]')
_STREAMS_WITH_OPTION: tuple[Endpoint, ...] = ("/v1/chat/completions", "/v1/completions")
_OPTION = "stream_options"


def ask_usage(endpoint: Endpoint, body: Body) -> tuple[Body, bool]:
    """Return the call in `body` with the wish to be told the usage, and whether its client has not that wish."""
    given = body.get(_OPTION)
    if endpoint not in _STREAMS_WITH_OPTION or not body.get("stream") or not isinstance(given, dict | None):
        return body, False
    asked = {**(given or {}), "include_usage": True}
    return {**body, _OPTION: asked}, not (given or {}).get("include_usage")


class MeteredCaller:
    """The client of a tenant's call; what it is sent is counted when the call is over."""

    def __init__(self, caller: Caller, account: Account, *, hides_usage: bool) -> None:
        self._caller = caller
        self._account = account
        self._meter = _Meter(hides_usage)

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers."""
        return self._caller.headers

    @property
    def method(self) -> str:
        """The request's method."""
        return self._caller.method

    @property
    def path(self) -> str:
        """The path as it came."""
        return self._caller.path

    @property
    def account(self) -> Account | None:
        """The tenant."""
        return self._account

    def answer(self, body: bytes, *, status: int, headers: Mapping[str, str]) -> None:
        """Give a whole answer."""
        if status == 200:
            self._meter.read_whole(body)
        self._caller.answer(body, status=status, headers=headers)

    async def begin_stream(self, *, status: int = 200, headers: Mapping[str, str]) -> StreamWriter:
        """Begin an answer that comes in pieces."""
        return _MeteredWriter(await self._caller.begin_stream(status=status, headers=headers), self._meter)

    def close(self) -> None:
        """Charge the tenant."""
        self._account.note_generated(self._meter.num_tokens)


class _Meter:
    """Reads answers."""

    def __init__(self, hides_usage: bool) -> None:
        self._hides_usage = hides_usage
        self._buffer = b""
        self._told: dict[int, int] = {}
        self._num_pieces = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of all answers of the call."""
        return sum(self._told.values()) if self._told else self._num_pieces

    def read_whole(self, body: bytes) -> None:
        """Read an answer that is no stream."""
        value = orjson.loads(body)
        for place, item in enumerate(value if isinstance(value, list) else [value]):
            self._told[place] = _count(item)

    def pass_on(self, piece: bytes) -> bytes:
        """Return what the client is sent when `piece` of a stream has come: whole events."""
        events = (self._buffer + piece).split(_END)
        self._buffer = events.pop()
        return b"".join(event + _END for event in events if self._is_for_client(event))

    def take_rest(self) -> bytes:
        """Return what is left when the stream is over."""
        rest, self._buffer = self._buffer, b""
        return rest

    def _is_for_client(self, event: bytes) -> bool:
        self._num_pieces += 1
        if not _USAGE.search(event):
            return True
        value = _read_event(event)
        if not isinstance(value, Mapping):
            return True
        # Of /generate each piece tells the tokens so far, of each answer by its place.
        place = value.get("index")
        self._told[place if isinstance(place, int) else 0] = _count(value)
        return not (self._hides_usage and _ONLY_USAGE.search(event) and value.get("choices") == [])


class _MeteredWriter:
    """A stream towards a tenant's client."""

    def __init__(self, writer: StreamWriter, meter: _Meter) -> None:
        self.last = b""
        self._writer = writer
        self._meter = meter

    def takes(self, piece: bytes) -> bool:
        """Whether writing `piece` waits for nobody."""
        return self._writer.takes(piece)

    async def write(self, piece: bytes) -> None:
        """Write what `piece` makes whole."""
        # What is held back for the rest of its event counts as written: nothing else may follow it.
        self.last = piece
        if rewritten := self._meter.pass_on(piece):
            await self._writer.write(rewritten)

    def write_at_once(self, piece: bytes) -> bool:
        """Leave it to `write`, which reads it."""
        return False

    async def write_last(self, piece: bytes) -> None:
        """Write the last piece and the end of the stream."""
        self.last = b""
        await self._writer.write_last(self._meter.pass_on(piece) + self._meter.take_rest())

    def cut_off(self) -> None:
        """End the connection."""
        self._writer.cut_off()


def _read_event(event: bytes) -> Any:
    _, _, data = event.partition(b"data: ")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _count(item: Any) -> int:
    """Return the tokens of the answer that an object tells of, in whichever of the forms."""
    if not isinstance(item, Mapping):
        return 0
    holder = item.get("response") if isinstance(item.get("response"), Mapping) else item
    assert isinstance(holder, Mapping)
    usage = holder.get("usage") or holder.get("meta_info")
    if not isinstance(usage, Mapping):
        return 0
    found = usage.get("completion_tokens") or usage.get("output_tokens")
    return found if isinstance(found, int) and found > 0 else 0
