"""The router as a web application."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from prefillshare.routing.auth import check_key
from prefillshare.routing.errors import NotFoundError, RoutingError, error_reply
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.handlers import models, monitoring, service, workers
from prefillshare.routing.handlers.calls import call_handler
from prefillshare.routing.keys import GATEWAY
from prefillshare.routing.settings import RouterSettings

log = logging.getLogger(__name__)

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
    ("GET", "/health", service.health),
    ("GET", "/health_generate", service.health_generate),
    ("GET", "/flush_cache", service.flush_cache),
    ("POST", "/flush_cache", service.flush_cache),
    ("GET", "/router/state", service.router_state),
    ("GET", "/deployment/state", monitoring.deployment_state),
    ("GET", "/metrics", monitoring.metrics),
    ("GET", "/workers", workers.list_workers),
    ("POST", "/workers", workers.join),
    ("DELETE", "/workers/{id}", workers.leave),
)


def make_app(settings: RouterSettings) -> web.Application:
    """Return the application; serve it with handler_cancellation, or calls outlive the clients that leave."""
    app = web.Application(middlewares=[_errors], client_max_size=settings.router.max_body_bytes)
    app.cleanup_ctx.append(_running_gateway(settings))
    for method, path, handler in _ROUTES:
        app.router.add_route(method, path, handler)
    app.router.add_route("*", "/{path:.*}", _elsewhere)
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
        if error.status >= 500:
            log.warning("%s %s: %s", request.method, request.path, error)
        return error_reply(error)


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
