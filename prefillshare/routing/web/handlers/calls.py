"""`/v1/chat/completions`, `/v1/completions`, `/generate`: calls that a decode module answers."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from prefillshare.contract import SESSION_HEADER
from prefillshare.routing.call.call import Call, Endpoint, Served, parse_call
from prefillshare.routing.errors import UnavailableError
from prefillshare.routing.headers import read_header
from prefillshare.routing.web.bodies import read_json_body
from prefillshare.routing.web.keys import GATEWAY

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_CLOSE = {"Connection": "close", "Retry-After": "2"}


def call_handler(endpoint: Endpoint) -> Handler:
    """Return the handler of one of the calling endpoints."""

    async def handle(request: web.Request) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        if gateway.is_draining:
            raise UnavailableError("the router is stopping: call another one, or again later", headers=_CLOSE)
        with gateway.descriptors.call():
            return await gateway.proxy.answer(request, await _read_call(request, endpoint))

    return handle


async def _read_call(request: web.Request, endpoint: Endpoint) -> Call:
    gateway = request.app[GATEWAY]
    return parse_call(
        endpoint,
        await read_json_body(request, gateway.settings.router),
        Served(
            base=gateway.settings.base_model,
            modules=gateway.pool.modules(),
            vocab_size=gateway.settings.vocab_size,
        ),
        session_header=read_header(request.headers, SESSION_HEADER),
        addressed=request.match_info.get("module"),
    )
