"""`/router/peer`: what other routers of the deployment ask of this one, and tell it."""

import asyncio

import orjson
from aiohttp import web

from prefillshare.routing.changes.book import read_told
from prefillshare.routing.errors import BadCallError, ForbiddenError
from prefillshare.routing.parts import Parts
from prefillshare.routing.peers.forward import Peers
from prefillshare.routing.web.bodies import read_body
from prefillshare.routing.web.handlers.changes import note_aliases
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply


async def show_report(request: web.Request) -> web.Response:
    """What another router needs to know of this one."""
    return json_reply(_peers(request).exchange.make_report().as_dict())


async def hear(request: web.Request) -> web.Response:
    """Hear that another router has emptied the caches of workers, or what has changed about its aliases."""
    _peers(request)
    parts = request.app[GATEWAY].parts
    try:
        told = orjson.loads(await read_body(request, parts.settings.router))
    except orjson.JSONDecodeError as error:
        raise BadCallError(f"the body is not JSON ({error}): send a JSON object") from None
    if isinstance(told, dict) and isinstance(told.get("flushed"), list):
        return _note_flushed(parts, told["flushed"])
    if isinstance(told, dict) and "aliases" in told:
        return await _take_aliases(parts, told["aliases"])
    raise BadCallError('the body is neither {"flushed": [worker, ...]} nor {"aliases": ...}: send such an object')


def _note_flushed(parts: Parts, worker_ids: list[object]) -> web.Response:
    for worker_id in map(str, worker_ids):
        parts.chooser.index.forget(worker_id)
    parts.chooser.forget_store()
    return json_reply({})


async def _take_aliases(parts: Parts, told: object) -> web.Response:
    """Not under the lock of changes: two routers that are told at once would wait for each other."""
    later, settings = parts.book.later(told), parts.settings
    read, unread = await asyncio.to_thread(read_told, later, settings.fingerprint)
    has_changed, refused = parts.book.take(later, read, settings.base_model, tuple(parts.pool.modules()))
    if has_changed:
        note_aliases(parts)
    return json_reply({"refused": unread | refused})


def _peers(request: web.Request) -> Peers:
    peers = request.app[GATEWAY].peers
    if peers is None or not peers.hops.is_hop(request.headers):
        raise ForbiddenError("only the other routers that this one was given by --peers may ask this")
    return peers
