"""One connection's ordinary calls, one after the other; what is anything else goes to aiohttp, byte for byte.

    bytes ── held until a call is whole ── its answer ── next call ...
                 │ not ordinary, or not whole within `_PATIENCE_S`
                 └── aiohttp, from there on for as long as it may be in the middle of a request

So slow senders, large and chunked bodies, `Expect`, other paths and what is no HTTP are answered as if nothing were
here; and a connection that asked for a page between two calls has its next call answered here again.
"""

import asyncio
import logging
from typing import Protocol

from prefillshare.routing.errors import RoutingError, TenantRefusedError, error_body
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.web.auth import begin_request, check_key
from prefillshare.routing.web.direct.answering import DirectCaller
from prefillshare.routing.web.direct.asked import MAX_BODY_BYTES, MAX_HEAD_BYTES, Asked, may_be_call, read_head
from prefillshare.routing.web.handlers.calls import answer_call, taking_call
from prefillshare.routing.web.replies import log_failure
from prefillshare.tenants.errors import TenantError
from prefillshare.wire.text import as_json

log = logging.getLogger(__name__)

_PATIENCE_S = 0.05
"""How long a call may take to arrive; many clients send head and body one after the other."""
_MAX_HELD_BYTES = 1 << 16
"""Of what a client sends while it is being answered; then it is not read on."""
_BODILESS = (b"GET ", b"HEAD ")
_DECLARED = (b"content-length", b"transfer-encoding", b"upgrade", b"expect")


class Server(Protocol):
    """The connection as aiohttp has it."""

    transport: asyncio.Transport | None
    busy: int

    @property
    def waits(self) -> bool:
        """Whether aiohttp has answered all that it was given."""
        ...

    async def drain(self) -> None:
        """Wait until the client has read enough of what was written."""
        ...

    def begin_answer(self) -> None:
        """Count a request that is being answered."""
        ...

    def end_answer(self) -> None:
        """Count it as answered."""
        ...

    def read_elsewhere(self, data: bytes) -> None:
        """Give `data` to aiohttp."""
        ...

    def stop_reading(self) -> None:
        """Leave what comes where it comes from."""
        ...

    def read_on(self) -> None:
        """Read it again."""
        ...

    def force_close(self) -> None:
        """End the connection when what was written is sent."""
        ...


class Lane:
    """The calls of one connection that are answered without aiohttp."""

    __slots__ = (
        "_call",
        "_gateway",
        "_held",
        "_is_left",
        "_is_lent",
        "_is_stopped",
        "_is_unread",
        "_loop",
        "_patience",
        "_server",
    )

    def __init__(self, server: Server, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._gateway = gateway
        self._loop = loop
        self._held = b""
        self._call: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._is_lent = False  # aiohttp was given a whole request without a body
        self._is_left = False  # aiohttp was given what may not be a whole request: it has all that comes
        self._is_stopped = False
        self._is_unread = False

    @property
    def is_answering(self) -> bool:
        """Whether a call is being answered."""
        return self._call is not None

    def take(self, data: bytes) -> bool:
        """Take what has come; return False when it is aiohttp's."""
        if self._is_lent:
            self._is_lent, self._is_left = False, not self._server.waits
        if self._is_left or self._is_stopped:
            return False
        self._held = self._held + data if self._held else data
        if self._call is None:
            self._look()
        elif len(self._held) > _MAX_HELD_BYTES:
            self._read_no_further()
        return True

    def stop(self) -> None:
        """Take no further call."""
        self._is_stopped = True

    def lose(self) -> None:
        """Hear that the client has left: nobody waits for its answer."""
        self.stop()
        self._keep_waiting(False)
        if self._call is not None:
            self._call.cancel()

    async def shutdown(self, timeout_s: float | None) -> None:
        """Let the call that is being answered end, then end it."""
        self.stop()
        if self._call is not None:
            await asyncio.wait((self._call,), timeout=timeout_s)
        if self._call is not None:
            self._call.cancel()
            await asyncio.wait((self._call,), timeout=timeout_s)

    def _look(self) -> None:
        """Answer the call that has come, if it is one and has come whole."""
        data = self._held
        asked = read_head(data)
        if not (_is_begun(data) if asked is None else self._can_take(asked)):
            self._leave()
        elif asked is None or asked.end > len(data):
            self._keep_waiting(True)
            self._read_on()
        else:
            self._keep_waiting(False)
            self._begin(asked, data)

    def _can_take(self, asked: Asked) -> bool:
        return asked.end - asked.start <= min(MAX_BODY_BYTES, self._gateway.parts.settings.router.max_body_bytes)

    def _keep_waiting(self, waits: bool) -> None:
        if self._patience is not None and not waits:
            self._patience.cancel()
            self._patience = None
        elif self._patience is None and waits:
            self._patience = self._loop.call_later(_PATIENCE_S, self._leave)

    def _leave(self) -> None:
        """Give what has come to aiohttp."""
        self._keep_waiting(False)
        data, self._held = self._held, b""
        self._is_lent = _is_whole_without_body(data)
        self._is_left = not self._is_lent
        self._read_on()  # before aiohttp has the data: it may want no more for now
        self._server.read_elsewhere(data)

    def _begin(self, asked: Asked, data: bytes) -> None:
        transport = self._server.transport
        if transport is None:
            return
        self._held = data[asked.end :]
        # A client may ask for more than is answered: what it sends then must stay where it comes from.
        if len(self._held) <= _MAX_HELD_BYTES:
            self._read_on()
        self._server.begin_answer()
        caller = DirectCaller(asked, transport, self._server.drain)
        caller.stays = asked.stays and not self._gateway.parts.descriptors.is_short
        self._call = self._loop.create_task(self._answer(caller, data[asked.start : asked.end]))

    async def _answer(self, caller: DirectCaller, body: bytes) -> None:
        try:
            await self._answer_call(caller, body)
            await self._server.drain()  # else the answers of who asks on and on, and does not read, would pile up here
        except ConnectionResetError:
            pass  # nobody is there any more
        except Exception as error:  # one call's failure must not be the connection's end without a word
            self._fail(caller, error)
        finally:
            self._end(caller)

    async def _answer_call(self, caller: DirectCaller, body: bytes) -> None:
        gateway, asked = self._gateway, caller.asked
        try:
            hops = gateway.peers.hops if gateway.peers else None
            caller.account = check_key(asked, gateway.parts.settings, hops, gateway.tenants, gateway.parts.names)
            with begin_request(asked, caller.account, hops), taking_call(gateway):
                await answer_call(gateway, caller, asked.path, body)
        except TenantError as error:
            _answer_error(caller, TenantRefusedError(error))
        except RoutingError as error:
            log_failure(asked.method, asked.path, error)
            _answer_error(caller, error)

    def _fail(self, caller: DirectCaller, error: Exception) -> None:
        log.error("%s %s failed", caller.asked.method, caller.asked.path, exc_info=error)
        if not caller.has_begun:
            caller.stays = False
            _answer_error(caller, RoutingError("the router failed on this request; its log says why"))

    def _end(self, caller: DirectCaller) -> None:
        """Go on with the connection, or end it."""
        server = self._server
        self._call = None
        server.end_answer()
        if not caller.is_over or not caller.stays or self._is_stopped or self._gateway.parts.descriptors.is_short:
            server.force_close()
        elif self._held:
            self._look()

    def _read_no_further(self) -> None:
        if not self._is_unread:
            self._is_unread = True
            self._server.stop_reading()

    def _read_on(self) -> None:
        if self._is_unread:
            self._is_unread = False
            self._server.read_on()


def _is_begun(data: bytes) -> bool:
    """Whether `data` may be the beginning of a call's head."""
    return may_be_call(data) and len(data) < MAX_HEAD_BYTES and b"\r\n\r\n" not in data


def _is_whole_without_body(data: bytes) -> bool:
    """Whether `data` is one request, and nothing of it is still to come."""
    if not data.startswith(_BODILESS) or data.find(b"\r\n\r\n") != len(data) - 4:
        return False
    head = data.lower()
    return not any(name in head for name in _DECLARED)


def _answer_error(caller: DirectCaller, error: RoutingError) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8", **error.headers}
    # An error that ends the connection says so itself.
    caller.stays &= headers.pop("Connection", None) != "close"
    caller.answer(as_json(error_body(error)), status=error.status, headers=headers)
