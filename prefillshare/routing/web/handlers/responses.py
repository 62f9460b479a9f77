"""`/v1/responses`: calls that the router remembers, and what is asked of them later."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from prefillshare.responses.errors import ResponsesError
from prefillshare.responses.exchange import Exchange
from prefillshare.responses.kept import KeptResponses
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.parse import read_object
from prefillshare.routing.errors import ResponsesRefusedError, RoutingError, error_body
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.web.bodies import read_json_body
from prefillshare.routing.web.handlers.calls import parse, refuse_while_draining
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply

Ask = Callable[[KeptResponses, str], bytes | Mapping[str, Any]]


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a call, and remember the answer if its client wants that."""
    gateway = request.app[GATEWAY]
    refuse_while_draining(gateway)
    with gateway.parts.descriptors.call():
        body = read_object(await read_json_body(request, gateway.parts.settings.router))
        try:
            exchange = gateway.responses.open(body)
        except ResponsesError as error:
            raise ResponsesRefusedError(error) from None
        call = parse(request, "/v1/responses", orjson.dumps(exchange.body))
        if exchange.is_background:
            return json_reply(gateway.responses.start(exchange, lambda: _compute(gateway, request, call)))
        response = await gateway.proxy.answer(request, call, exchange.pass_on)
    return _finish(exchange, response)


async def _compute(gateway: Gateway, request: web.Request, call: Call) -> tuple[int, bytes]:
    """Return status and body of an answer that nobody waits for."""
    try:
        response = await gateway.proxy.answer(request, call)
    except RoutingError as error:
        return error.status, orjson.dumps(error_body(error))
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    return response.status, response.body


def _finish(exchange: Exchange, response: web.StreamResponse) -> web.StreamResponse:
    if isinstance(response, web.Response) and response.status == 200 and isinstance(response.body, bytes):
        response.body = orjson.dumps(exchange.finish(orjson.loads(response.body)))
    return response


def ask_kept(ask: Ask) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler of what is asked of one response."""

    async def handle(request: web.Request) -> web.Response:
        try:
            told = ask(request.app[GATEWAY].responses, request.match_info["id"])
        except ResponsesError as error:
            raise ResponsesRefusedError(error) from None
        if isinstance(told, bytes):
            return web.Response(body=told, content_type="application/json", charset="utf-8")
        return json_reply(told)

    return handle
