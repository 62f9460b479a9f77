"""The router as a web application."""

import re
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from prefillshare.contract import CHANGES_PATH, MESSAGES_PATH
from prefillshare.observe.document import STATE_PATH
from prefillshare.responses.kept import KeptResponses
from prefillshare.roles.report import ROLES_PATH
from prefillshare.routing.errors import BadCallError, NotFoundError, RoutingError, TenantRefusedError
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.headers import read_header
from prefillshare.routing.peers.exchange import PEER_PATH
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.web.auth import begin_request, check_key
from prefillshare.routing.web.connections import Connection
from prefillshare.routing.web.cors import allow_origin, answer_preflight
from prefillshare.routing.web.handlers import (
    changes,
    models,
    monitoring,
    peers,
    responses,
    roles,
    service,
    tokens,
    workers,
)
from prefillshare.routing.web.handlers.calls import call_handler
from prefillshare.routing.web.keys import ACCOUNT, GATEWAY
from prefillshare.routing.web.replies import as_anthropic, error_reply, log_failure
from prefillshare.tenants.errors import TenantError
from prefillshare.wire.paths import describe_method, describe_missing

_CLOSING = (408, 413)
"""The rest of such a request's body is not waited for."""

_ESCAPED_SLASH = "%2f"
"""A path with one for a slash only means one of ours, and is none of them."""
_OF_TOKENS = ("/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize")
_ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/chat/completions", call_handler("/v1/chat/completions")),
    ("POST", "/v1/completions", call_handler("/v1/completions")),
    ("POST", "/generate", call_handler("/generate")),
    ("PUT", "/generate", call_handler("/generate")),
    *(("POST", path, tokens.ask_a_worker(path)) for path in _OF_TOKENS),
    ("POST", "/v1/messages", call_handler("/v1/messages")),
    ("POST", "/v1/messages/count_tokens", tokens.ask_a_worker("/v1/messages/count_tokens")),
    ("POST", "/v1/responses", responses.create),
    ("GET", "/v1/responses/{id}", responses.ask_kept(KeptResponses.get)),
    ("DELETE", "/v1/responses/{id}", responses.ask_kept(KeptResponses.delete)),
    ("POST", "/v1/responses/{id}/cancel", responses.ask_kept(KeptResponses.cancel)),
    ("GET", "/v1/responses/{id}/input_items", responses.ask_kept(KeptResponses.list_items)),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{name}", models.get_model),
    ("GET", "/model_info", models.show_model_info),
    ("GET", "/get_model_info", models.show_model_info),
    ("GET", "/server_info", models.show_server_info),
    ("GET", "/get_server_info", models.show_server_info),
    ("GET", "/modules", models.list_modules),
    ("PUT", "/modules/{module}", changes.add),
    ("POST", "/modules/{module}/reload", changes.reload),
    ("DELETE", "/modules/{module}", changes.remove),
    ("GET", "/aliases", changes.list_aliases),
    ("PUT", "/aliases/{name}", changes.set_alias),
    ("DELETE", "/aliases/{name}", changes.drop_alias),
    ("PUT", CHANGES_PATH, changes.hear),
    ("GET", "/health", service.show_health),
    ("HEAD", "/health", service.show_health),
    ("GET", "/health_generate", service.try_generating),
    ("GET", "/flush_cache", service.flush_cache),
    ("POST", "/flush_cache", service.flush_cache),
    ("GET", "/router/state", service.show_router_state),
    ("GET", ROLES_PATH, roles.show),
    ("PUT", ROLES_PATH, roles.hear),
    ("GET", PEER_PATH, peers.show_report),
    ("PUT", PEER_PATH, peers.note_flushed),
    ("GET", STATE_PATH, monitoring.show_state),
    ("GET", "/metrics", monitoring.show_metrics),
    ("GET", "/workers", workers.list_workers),
    ("POST", "/workers", workers.join),
    ("PUT", "/workers/{id}", workers.announce),
    ("DELETE", "/workers/{id}", workers.leave),
    # For clients that can name an address but no model, such as SGLang's frontend language.
    ("POST", "/modules/{module}/generate", models.of_module(call_handler("/generate"))),
    ("PUT", "/modules/{module}/generate", models.of_module(call_handler("/generate"))),
    ("GET", "/modules/{module}/model_info", models.of_module(models.show_model_info)),
    ("GET", "/modules/{module}/get_model_info", models.of_module(models.show_model_info)),
    ("GET", "/modules/{module}/server_info", models.of_module(models.show_server_info)),
    ("GET", "/modules/{module}/get_server_info", models.of_module(models.show_server_info)),
    ("GET", "/modules/{module}/flush_cache", models.of_module(service.flush_cache)),
    ("POST", "/modules/{module}/flush_cache", models.of_module(service.flush_cache)),
)


_PATTERNS = [(re.compile(re.sub(r"{\w+}", "[^/]+", path)), method) for method, path, _ in _ROUTES]
"""What the paths look like, to tell a wrong method from a path that is not there."""


def make_app(settings: RouterSettings) -> web.Application:
    """Return the application; `connections.make_runner` serves it."""
    # The connection is in use until the answer, an error's too, is made: so its middleware is the outer one.
    middlewares = (_count_connection_use, _answer_in_form, _answer_errors)
    app = web.Application(middlewares=middlewares, client_max_size=settings.router.max_body_bytes)
    app.cleanup_ctx.append(_run_gateway(settings))
    app.on_response_prepare.append(allow_origin)
    for method, path, handler in _ROUTES:
        app.router.add_route(method, path, handler, expect_handler=_answer_expect)
    app.router.add_route("*", "/{path:[\\s\\S]*}", _answer_unknown, expect_handler=_answer_expect)
    return app


def _run_gateway(settings: RouterSettings) -> Callable[[web.Application], AsyncIterator[None]]:
    async def run(app: web.Application) -> AsyncIterator[None]:
        gateway = app[GATEWAY] = Gateway(settings)
        yield
        await gateway.close()

    return run


@web.middleware
async def _answer_in_form(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as the clients of the interface read them: OpenAI's form, but below its paths Anthropic's."""
    response = await handler(request)
    return as_anthropic(response) if request.path.startswith(MESSAGES_PATH) else response


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        gateway = request.app[GATEWAY]
        hops = gateway.peers.hops if gateway.peers else None
        account = check_key(request, gateway.parts.settings, hops, gateway.tenants, gateway.parts.names)
        # It would go to another handler than the one whose key was looked at.
        if _ESCAPED_SLASH in request.rel_url.raw_path.lower():
            raise NotFoundError(describe_missing(request.path, (path for _, path, _ in _ROUTES)))
        if account is None:
            return await handler(request)
        request[ACCOUNT] = account
        with begin_request(request, account, hops):
            return await handler(request)
    except TenantError as error:
        return error_reply(TenantRefusedError(error))
    except RoutingError as error:
        log_failure(request.method, request.path, error)
        return error_reply(error)
    except web.HTTPException as error:
        reason = BadCallError(f"{request.method} {request.path[:200]}: {error.reason}")
        return error_reply(reason, status=error.status)


@web.middleware
async def _count_connection_use(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection when it is in use; while descriptors are short, none is kept."""
    connection, descriptors = request.protocol, request.app[GATEWAY].parts.descriptors
    assert isinstance(connection, Connection)
    connection.begin_answer()
    try:
        response = await handler(request)
    finally:
        connection.end_answer()
    if descriptors.is_short or response.status in _CLOSING:
        response.force_close()
    return response


async def _answer_expect(request: web.Request) -> web.StreamResponse | None:
    """Answer the header Expect; aiohttp asks for this before any middleware sees the request."""
    expected = read_header(request.headers, "Expect") or ""
    if expected.lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # else an error would count as sent half
        return None
    return error_reply(BadCallError(f"the header Expect is {expected[:40]!r}: leave it out"), status=417)


async def _answer_unknown(request: web.Request) -> web.StreamResponse:
    methods = [method for pattern, method in _PATTERNS if pattern.fullmatch(request.path)]
    if methods and request.method == "OPTIONS" and (preflight := answer_preflight(request, methods)) is not None:
        return preflight
    if methods and request.method not in methods:
        error = NotFoundError(describe_method(request.path, request.method, methods))
        reply = error_reply(error, status=405)
        reply.headers["Allow"] = ", ".join(methods)
        return reply
    raise NotFoundError(describe_missing(request.path, (path for _, path, _ in _ROUTES)))
