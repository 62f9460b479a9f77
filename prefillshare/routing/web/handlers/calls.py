"""`/v1/chat/completions`, `/v1/completions`, `/generate`: calls that a decode module answers."""

import contextlib
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

from prefillshare.routing.call.call import Call, Choice, Endpoint
from prefillshare.routing.call.caller import Caller
from prefillshare.routing.call.parse import Served, parse_call
from prefillshare.routing.errors import UnavailableError
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.headers import read_header
from prefillshare.routing.peers.hop import STOPPING_HEADER
from prefillshare.routing.web.bodies import read_json_body
from prefillshare.routing.web.callers import AppCaller
from prefillshare.routing.web.keys import GATEWAY

_CLOSE = {"Connection": "close", "Retry-After": "2", STOPPING_HEADER: "1"}


def call_handler(endpoint: Endpoint) -> Handler:
    """Return the handler of one of the calling endpoints."""

    async def handle(request: web.Request) -> web.StreamResponse:
        gateway, caller = request.app[GATEWAY], AppCaller(request)
        with taking_call(gateway):
            body = await read_json_body(request, gateway.parts.settings.router)
            await answer_call(gateway, caller, endpoint, body, addressed=request.match_info.get("module"))
        return caller.made()

    return handle


def taking_call(gateway: Gateway) -> contextlib.AbstractContextManager[None]:
    """Count a call while the returned context is open.

    Raises: UnavailableError when the router takes none any more, ShortageError when it has no descriptors for one.
    """
    if gateway.is_draining:
        raise UnavailableError("the router is stopping: call another router, or try again later", headers=_CLOSE)
    return gateway.parts.descriptors.call()


async def answer_call(
    gateway: Gateway, caller: Caller, endpoint: Endpoint, body: bytes, *, addressed: str | None = None
) -> None:
    """Give `caller` the answer to the call in `body`; `addressed` is the module of the address, if that names one.

    Raises: RoutingError.
    """
    call = parse(gateway, caller, endpoint, body, addressed=addressed)
    if gateway.peers is None or not await gateway.peers.forward(caller, body, call):
        decided = await decide(gateway, caller, call, body, addressed=addressed)
        if decided is not None:
            await gateway.proxy.answer(caller, decided)


async def decide(
    gateway: Gateway, caller: Caller, call: Call, body: bytes, *, addressed: str | None = None
) -> Call | None:
    """Return `call`, which is in `body`, with its module chosen where that is still to be done.

    None when a worker refused it: the caller has the answer.

    Raises: RoutingError.
    """
    if call.undecided is None:
        return call
    choice = await gateway.choices.choose(caller, call)
    if choice is None:
        return None
    decided = parse(gateway, caller, call.endpoint, body, addressed=addressed, choice=choice)
    gateway.parts.observer.choices.note(call.undecided, decided.module)
    return decided


def parse(
    gateway: Gateway,
    caller: Caller,
    endpoint: Endpoint,
    body: bytes,
    *,
    addressed: str | None = None,
    choice: Choice | None = None,
) -> Call:
    """Return the call in the `body` that came from `caller`; `choice` is what was asked about an undecided one.

    Raises: BadCallError, UnknownModelError.
    """
    settings = gateway.parts.settings
    # Asked after the body has come, which may take minutes: modules come and go.
    account, names = caller.account, gateway.parts.names()
    if account is not None:
        names = names.only(account.allows)
    served = Served(names=names, vocab_size=settings.vocab_size, alone=gateway.parts.pool.computing_alone())
    header = partial(read_header, caller.headers)
    return parse_call(endpoint, body, served, header=header, addressed=addressed, account=account, choice=choice)
