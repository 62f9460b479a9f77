"""`/v1/chat/completions`, `/v1/completions`, `/generate`: calls that a decode module answers."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from prefillshare.routing.call import Endpoint, Served, parse_call
from prefillshare.routing.errors import MediaTypeError, TooLargeError, UnavailableError
from prefillshare.routing.keys import GATEWAY
from sglang_patches.names import SESSION_HEADER

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def call_handler(endpoint: Endpoint) -> Handler:
    """Return the handler of one of the calling endpoints."""

    async def handle(request: web.Request) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        if gateway.is_draining:
            raise UnavailableError("the router is stopping: call another one, or again later", headers=_CLOSE)
        call = parse_call(
            endpoint,
            await _body(request),
            Served(
                base=gateway.settings.base_model,
                modules=gateway.pool.modules(),
                vocab_size=gateway.settings.vocab_size,
            ),
            session_header=request.headers.get(SESSION_HEADER),
        )
        return await gateway.proxy.answer(request, call)

    return handle


_CLOSE = {"Connection": "close", "Retry-After": "2"}


async def _body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise MediaTypeError(
            f"the content type is {request.content_type}: send JSON with the header Content-Type: application/json"
        )
    limit = request.app[GATEWAY].settings.router.max_body_bytes
    try:
        if (request.content_length or 0) <= limit:
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        pass
    raise TooLargeError(f"the body is larger than {limit} bytes: send less, or raise max_body_bytes under [router]")
