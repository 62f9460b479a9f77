"""Passing a call on to the router that owns its session, and the answer back, byte for byte."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from prefillshare.contract import SESSION_HEADER, TENANT_HEADER
from prefillshare.errors import PrefillShareError
from prefillshare.naming.rules import rule_headers
from prefillshare.routing.call.caller import Caller, StreamWriter
from prefillshare.routing.call.relay import end_with_error
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.descriptors import is_own_shortage
from prefillshare.routing.errors import WorkerFailedError
from prefillshare.routing.headers import pick_headers
from prefillshare.routing.http.client import HttpClient
from prefillshare.routing.http.errors import BrokenOffError, CannotConnectError, ConnectTimeoutError
from prefillshare.routing.http.reply import Reply
from prefillshare.routing.parts import Parts
from prefillshare.routing.peers.exchange import Exchange
from prefillshare.routing.peers.hop import HOP_HEADER, STOPPING_HEADER, Hops
from prefillshare.routing.peers.ownership import Owners
from prefillshare.routing.peers.peer import Peer
from prefillshare.routing.tracing import PASSED_HEADERS

_MARGIN_S = 10.0
"""Beyond the time limit of a call, which its owner keeps: for the owner's own word that it is over."""
_MAX_LOST = 2
"""Routers that may end in the middle of a call: a call that ends routers must not meet all of them."""
_OF_ONE_CONNECTION = frozenset(
    "connection keep-alive transfer-encoding content-length date server te trailer upgrade".split()
)
_STOPPING = STOPPING_HEADER.lower().encode()
_CALL_HEADERS = (SESSION_HEADER, *PASSED_HEADERS)


class PeerLostError(PrefillShareError):
    """Another router has no answer for a call and may have passed nothing on: the next one may take it."""

    def __init__(self, what: str, *, has_ended: bool = False) -> None:
        super().__init__(what)
        self.has_ended = has_ended
        """Whether it ended in the middle of the call, possibly because of it."""


class Peers:
    """The other routers: who of them owns a call's session, and what is passed on to them."""

    def __init__(self, parts: Parts, hops: Hops, exchange: Exchange, http: HttpClient) -> None:
        self.hops = hops
        self.exchange = exchange
        self.num_forwarded = 0
        """Calls that were passed on since the start."""
        self._http = http
        self._parts = parts
        self._own = parts.settings.own_address
        self._owners = Owners((self._own, *exchange.peers))

    def __iter__(self) -> Iterator[Peer]:
        return iter(self.exchange.peers.values())

    @property
    def num_underway(self) -> int:
        """Calls that were passed on and are not over."""
        return sum(peer.num_underway for peer in self)

    async def close(self) -> None:
        """Ask and pass on no more."""
        await self.exchange.close()
        self._http.close()

    async def forward(self, caller: Caller, body: bytes, demand: Demand) -> bool:
        """Pass on the answer of the router that owns the session of `demand`; False when this one is to answer.

        Raises: WorkerFailedError when routers end over this call.
        """
        if self.hops.is_hop(caller.headers):
            return False
        num_lost = 0
        for address in self._owners.rank(demand):
            if address == self._own:
                # One that has not heard of its workers yet owns nothing: the others think so, too.
                if self.exchange.can_answer(demand.module):
                    return False
                continue
            peer = self.exchange.peers[address]
            if not peer.can_answer(demand.module):
                continue
            try:
                await self._pass_on(caller, body, peer)
                return True
            except PeerLostError as error:
                num_lost += error.has_ended
                if num_lost == _MAX_LOST:
                    raise WorkerFailedError(f"{error}; {num_lost} routers ended over this call") from None
        return False

    async def forward_by_session(self, caller: Caller, session: str) -> bool:
        """Pass on what the router that owns `session` answers to a request without a body; False when this one does."""
        if self.hops.is_hop(caller.headers):
            return False
        for address in self._owners.rank_named(session):
            if address == self._own:
                return False
            peer = self.exchange.peers[address]
            if peer.state == "up":
                with contextlib.suppress(PeerLostError):
                    await self._pass_on(caller, b"", peer)
                    return True
        return False

    async def _pass_on(self, caller: Caller, body: bytes, peer: Peer) -> None:
        """Give `caller` the answer of `peer`.

        Raises: PeerLostError while nothing of an answer was passed on; ShortageError.
        """
        self.num_forwarded += 1
        answer = _Answer(caller, peer)
        try:
            async with asyncio.timeout(self._parts.settings.router.total_timeout_s + _MARGIN_S) as limit:
                peer.underway.add(limit)
                try:
                    await answer.give(*await self._ask(caller, body, peer))
                finally:
                    peer.underway.discard(limit)
        except (PeerLostError, TimeoutError) as error:
            peer.hurry.set()
            lost = error if isinstance(error, PeerLostError) else PeerLostError(f"{peer.name} is not heard of any more")
            if answer.stream is None:
                raise lost from None
            told = WorkerFailedError(f"the answer broke off: {lost}")
            patience_s = self._parts.settings.router.idle_timeout_s
            await end_with_error(caller, answer.stream, told, patience_s=patience_s)

    async def _ask(self, caller: Caller, body: bytes, peer: Peer) -> tuple[Reply, bytes]:
        """Send the call to `peer`; return its answer, which whoever has it closes, and the first piece of it.

        Raises: PeerLostError, ShortageError.
        """
        headers = {
            "Content-Type": "application/json",
            HOP_HEADER: self.hops.mark_for(peer.address),
            **pick_headers(caller.headers, (*_CALL_HEADERS, *rule_headers(self._parts.aliases))),
            **({} if caller.account is None else {TENANT_HEADER: caller.account.name}),
        }
        try:
            reply = await self._http.request(
                caller.method, peer.address, caller.path, headers=headers, body=body, is_stream=True
            )
        except CannotConnectError as error:
            self._raise_own_shortage(peer, error)
            # Nobody listens there: no other call need try before the router has answered again.
            reason = f"it does not take connections ({error.strerror})"
            self.exchange.lose(peer, reason)
            raise PeerLostError(f"{peer.name}: {reason}") from None
        except ConnectTimeoutError:
            raise PeerLostError(f"{peer.name} did not take a connection in time") from None
        except BrokenOffError as error:
            raise _broken_off(peer, error) from None
        first = await _read(peer, reply.read_piece())
        if reply.find_header(_STOPPING) is not None:
            reply.close()
            raise PeerLostError(f"{peer.name} is stopping")
        return reply, first

    def _raise_own_shortage(self, peer: Peer, error: OSError) -> None:
        if is_own_shortage(error):
            raise self._parts.descriptors.cannot_connect(peer.name, error) from None


class _Answer:
    """What another router answers, on its way to the caller."""

    def __init__(self, caller: Caller, peer: Peer) -> None:
        self.stream: StreamWriter | None = None
        """Where it goes piece by piece, once it does: then no other router can answer any more."""
        self._caller = caller
        self._peer = peer

    async def give(self, reply: Reply, piece: bytes) -> None:
        """Pass on `piece` and what comes of `reply`.

        Raises: PeerLostError.
        """
        try:
            headers = _pick_answer_headers(reply)
            if reply.find_header(b"content-length") is not None:
                content = piece + await _read(self._peer, reply.read())
                self._caller.answer(content, status=reply.status, headers=headers)
                return
            stream = self.stream = await self._caller.begin_stream(status=reply.status, headers=headers)
            while piece and not reply.is_read:
                await stream.write(piece)
                piece = await _read(self._peer, reply.read_piece(stream.write_at_once))
            await stream.write_last(piece)
        finally:
            reply.close()


async def _read(peer: Peer, content: Awaitable[bytes]) -> bytes:
    """Return what comes of an answer.

    Raises: PeerLostError when it breaks off.
    """
    try:
        return await content
    except BrokenOffError as error:
        raise _broken_off(peer, error) from None


def _broken_off(peer: Peer, error: BrokenOffError) -> PeerLostError:
    return PeerLostError(f"{peer.name} broke off ({error})", has_ended=True)


def _pick_answer_headers(reply: Reply) -> dict[str, str]:
    named = ((name.decode("ascii", "replace"), value) for name, value in reply.headers)
    return {name: value.decode("latin-1") for name, value in named if name.lower() not in _OF_ONE_CONNECTION}


def make_peers(parts: Parts, *, num_running: Callable[[], int], is_moving: Callable[[], bool]) -> Peers | None:
    """Return the other routers of the deployment; None where there are none.

    `num_running` tells how many calls this one has, `is_moving` whether a move of its own is on its way.
    """
    settings = parts.settings
    if not settings.other_routers or settings.admin_key is None:
        return None
    http = HttpClient(settings.router.connect_timeout_s)
    hops = Hops(settings.admin_key, settings.own_address)
    return Peers(parts, hops, Exchange(parts, hops, http, num_running=num_running, is_moving=is_moving), http)
