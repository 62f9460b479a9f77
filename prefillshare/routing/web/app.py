"""The router as a web application."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from prefillshare.observe.document import STATE_PATH
from prefillshare.routing.errors import BadCallError, NotFoundError, RoutingError, ShortageError, error_reply
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.headers import read_header
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.web.auth import check_key
from prefillshare.routing.web.connections import Connection
from prefillshare.routing.web.handlers import models, monitoring, service, workers
from prefillshare.routing.web.handlers.calls import call_handler
from prefillshare.routing.web.keys import GATEWAY

log = logging.getLogger(__name__)

_CLOSING = (408, 413)
"""The rest of such a request's body is not waited for."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/chat/completions", call_handler("/v1/chat/completions")),
    ("POST", "/v1/completions", call_handler("/v1/completions")),
    ("POST", "/generate", call_handler("/generate")),
    ("PUT", "/generate", call_handler("/generate")),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{name}", models.get_model),
    ("GET", "/model_info", models.model_info),
    ("GET", "/get_model_info", models.model_info),
    ("GET", "/server_info", models.server_info),
    ("GET", "/get_server_info", models.server_info),
    ("GET", "/modules", models.list_modules),
    ("GET", "/health", service.health),
    ("GET", "/health_generate", service.health_generate),
    ("GET", "/flush_cache", service.flush_cache),
    ("POST", "/flush_cache", service.flush_cache),
    ("GET", "/router/state", service.router_state),
    ("GET", STATE_PATH, monitoring.deployment_state),
    ("GET", "/metrics", monitoring.metrics),
    ("GET", "/workers", workers.list_workers),
    ("POST", "/workers", workers.join),
    ("DELETE", "/workers/{id}", workers.leave),
    # For clients that can name an address but no model, such as SGLang's frontend language.
    ("POST", "/modules/{module}/generate", models.of_module(call_handler("/generate"))),
    ("PUT", "/modules/{module}/generate", models.of_module(call_handler("/generate"))),
    ("GET", "/modules/{module}/model_info", models.of_module(models.model_info)),
    ("GET", "/modules/{module}/get_model_info", models.of_module(models.model_info)),
    ("GET", "/modules/{module}/server_info", models.of_module(models.server_info)),
    ("GET", "/modules/{module}/get_server_info", models.of_module(models.server_info)),
    ("GET", "/modules/{module}/flush_cache", models.of_module(service.flush_cache)),
    ("POST", "/modules/{module}/flush_cache", models.of_module(service.flush_cache)),
)


def make_app(settings: RouterSettings) -> web.Application:
    """Return the application; `connections.make_runner` serves it."""
    app = web.Application(middlewares=[_connections, _errors], client_max_size=settings.router.max_body_bytes)
    app.cleanup_ctx.append(_running_gateway(settings))
    for method, path, handler in _ROUTES:
        app.router.add_route(method, path, handler, expect_handler=_expected)
    app.router.add_route("*", "/{path:[\\s\\S]*}", _elsewhere, expect_handler=_expected)
    return app


def _running_gateway(settings: RouterSettings) -> Callable[[web.Application], AsyncIterator[None]]:
    async def run(app: web.Application) -> AsyncIterator[None]:
        gateway = app[GATEWAY] = Gateway(settings)
        yield
        await gateway.close()

    return run


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        check_key(request, request.app[GATEWAY].settings)
        return await handler(request)
    except RoutingError as error:
        if error.status >= 500 and not isinstance(error, ShortageError):
            log.warning("%s %s: %s", request.method, request.path, error)
        return error_reply(error)
    except web.HTTPException as error:
        reply = error_reply(BadCallError(f"{request.method} {request.path[:200]}: {error.reason}"))
        reply.set_status(error.status)
        return reply


@web.middleware
async def _connections(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection when it is in use; while descriptors are short, none is kept."""
    connection, descriptors = request.protocol, request.app[GATEWAY].descriptors
    assert isinstance(connection, Connection)
    connection.began()
    try:
        response = await handler(request)
    finally:
        connection.ended()
    if descriptors.is_short or response.status in _CLOSING:
        response.force_close()
    return response


async def _expected(request: web.Request) -> web.StreamResponse | None:
    """Answer the header Expect, before any middleware sees the request."""
    expected = read_header(request.headers, "Expect") or ""
    if expected.lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # else an error would count as sent half
        return None
    reply = error_reply(BadCallError(f"the header Expect is {expected[:40]!r}: leave it out"))
    reply.set_status(417)
    return reply


async def _elsewhere(request: web.Request) -> web.StreamResponse:
    methods = [method for method, path, _ in _ROUTES if path == request.path]
    if methods:
        error = NotFoundError(f"{request.path} is not called with {request.method}: use {' or '.join(methods)}")
        reply = error_reply(error)
        reply.set_status(405)
        reply.headers["Allow"] = ", ".join(methods)
        return reply
    paths = ", ".join(dict.fromkeys(path for _, path, _ in _ROUTES))
    raise NotFoundError(f"there is no {request.path} here; there are: {paths}")
