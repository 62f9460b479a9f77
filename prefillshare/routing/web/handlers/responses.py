"""`/v1/responses`: calls that the router remembers, and what is asked of them later."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from prefillshare.responses.errors import ResponsesError
from prefillshare.responses.exchange import Exchange
from prefillshare.responses.ids import conversation_name, make_id, read_tag
from prefillshare.responses.kept import KeptResponses
from prefillshare.routing.call.call import Body, Call
from prefillshare.routing.call.parse import read_object, write_object
from prefillshare.routing.call.prefetch import wants_prefetch
from prefillshare.routing.errors import ResponsesRefusedError, RoutingError, error_body
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.web.bodies import read_json_body
from prefillshare.routing.web.callers import AppCaller
from prefillshare.routing.web.handlers.calls import decide, parse, taking_call
from prefillshare.routing.web.keys import GATEWAY, account_of
from prefillshare.routing.web.replies import json_reply

Ask = Callable[[KeptResponses, str, str], bytes | Mapping[str, Any]]
"""Of the responses, one by its id and its owner."""


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a call, and remember the answer if its client wants that."""
    gateway, caller = request.app[GATEWAY], AppCaller(request)
    with taking_call(gateway):
        raw = await read_json_body(request, gateway.parts.settings.router)
        body = read_object(raw)
        response_id = _find_id(gateway, request, body)
        if gateway.peers is not None:
            # One router has the whole conversation, by its name: that is in the ids of all of its responses.
            own = replace(parse(gateway, caller, "/v1/responses", raw), session=conversation_name(response_id))
            asked = write_object({**body, "request_id": response_id})
            if await gateway.peers.forward(caller, asked, own):
                return caller.made()
        try:
            exchange = gateway.responses.open(body, response_id, _owner(request), is_prefetch=wants_prefetch(body))
        except ResponsesError as error:
            raise ResponsesRefusedError(error) from None
        whole = write_object(exchange.body)
        call = parse(gateway, caller, "/v1/responses", whole)
        if exchange.is_background:
            during = None if call.account is None else call.account.running()
            return json_reply(
                gateway.responses.start(exchange, lambda: _compute(gateway, request, call, whole), during)
            )
        rewritten = AppCaller(request, exchange.pass_on)
        if (decided := await decide(gateway, rewritten, call, whole)) is not None:
            await gateway.proxy.answer(rewritten, decided)
    return _finish(exchange, rewritten.made())


def _find_id(gateway: Gateway, request: web.Request, body: Body) -> str:
    """Return the id of the response to be made, which another router may have given out."""
    given, previous = body.get("request_id"), body.get("previous_response_id")
    if gateway.peers is not None and gateway.peers.hops.is_hop(request.headers) and isinstance(given, str):
        return given
    return make_id(previous if isinstance(previous, str) else None)


def _owner(request: web.Request) -> str:
    account = account_of(request)
    return "" if account is None else account.name


async def _compute(gateway: Gateway, request: web.Request, call: Call, body: bytes) -> tuple[int, bytes]:
    """Return status and body of an answer that nobody waits for."""
    caller = AppCaller(request)
    try:
        if (decided := await decide(gateway, caller, call, body)) is not None:
            await gateway.proxy.answer(caller, decided)
    except RoutingError as error:
        return error.status, orjson.dumps(error_body(error))
    response = caller.made()
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    return response.status, response.body


def _finish(exchange: Exchange, response: web.StreamResponse) -> web.StreamResponse:
    if isinstance(response, web.Response) and response.status == 200 and isinstance(response.body, bytes):
        response.body = orjson.dumps(exchange.finish(orjson.loads(response.body)))
    return response


def ask_kept(ask: Ask) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler of what is asked of one response."""

    async def handle(request: web.Request) -> web.StreamResponse:
        gateway, response_id = request.app[GATEWAY], request.match_info["id"]
        if gateway.peers is not None and read_tag(response_id) is not None:
            caller = AppCaller(request)
            if await gateway.peers.forward_by_session(caller, conversation_name(response_id)):
                return caller.made()
        try:
            told = ask(gateway.responses, response_id, _owner(request))
        except ResponsesError as error:
            raise ResponsesRefusedError(error) from None
        if isinstance(told, bytes):
            return web.Response(body=told, content_type="application/json", charset="utf-8")
        return json_reply(told)

    return handle
