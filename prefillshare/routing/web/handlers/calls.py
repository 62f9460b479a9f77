"""`/v1/chat/completions`, `/v1/completions`, `/generate`: calls that a decode module answers."""

from aiohttp import web
from aiohttp.typedefs import Handler

from prefillshare.contract import SESSION_HEADER
from prefillshare.routing.call.call import Call, Endpoint
from prefillshare.routing.call.parse import Served, parse_call
from prefillshare.routing.errors import UnavailableError
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.headers import read_header
from prefillshare.routing.peers.hop import STOPPING_HEADER
from prefillshare.routing.web.bodies import read_json_body
from prefillshare.routing.web.keys import GATEWAY

_CLOSE = {"Connection": "close", "Retry-After": "2", STOPPING_HEADER: "1"}


def call_handler(endpoint: Endpoint) -> Handler:
    """Return the handler of one of the calling endpoints."""

    async def handle(request: web.Request) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        refuse_while_draining(gateway)
        with gateway.parts.descriptors.call():
            body = await read_json_body(request, gateway.parts.settings.router)
            call = parse(request, endpoint, body)
            if gateway.peers is not None:
                passed_on = await gateway.peers.forward(request, body, call)
                if passed_on is not None:
                    return passed_on
            return await gateway.proxy.answer(request, call)

    return handle


def refuse_while_draining(gateway: Gateway) -> None:
    """Raises: UnavailableError."""
    if gateway.is_draining:
        raise UnavailableError("the router is stopping: call another router, or try again later", headers=_CLOSE)


def parse(request: web.Request, endpoint: Endpoint, body: bytes) -> Call:
    """Return the call in the `body` of `request`.

    Raises: BadCallError, UnknownModelError.
    """
    parts = request.app[GATEWAY].parts
    settings = parts.settings
    # Asked after the body has come, which may take minutes: modules come and go.
    served = Served(base=settings.base_model, modules=parts.pool.modules(), vocab_size=settings.vocab_size)
    return parse_call(
        endpoint,
        body,
        served,
        session_header=read_header(request.headers, SESSION_HEADER),
        addressed=request.match_info.get("module"),
    )
