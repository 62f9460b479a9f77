"""`/router/peer`: what other routers of the deployment ask of this one, and tell it."""

import orjson
from aiohttp import web

from prefillshare.routing.errors import BadCallError, ForbiddenError
from prefillshare.routing.peers.forward import Peers
from prefillshare.routing.web.bodies import read_body
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply


async def show_report(request: web.Request) -> web.Response:
    """What another router needs to know of this one."""
    return json_reply(_peers(request).exchange.make_report().as_dict())


async def note_flushed(request: web.Request) -> web.Response:
    """Hear that another router has emptied the caches of workers."""
    _peers(request)
    parts = request.app[GATEWAY].parts
    try:
        worker_ids = orjson.loads(await read_body(request, parts.settings.router))["flushed"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise BadCallError('the body is not {"flushed": [worker, ...]}: send such an object') from None
    for worker_id in map(str, worker_ids):
        parts.chooser.index.forget(worker_id)
    parts.chooser.forget_store()
    return json_reply({})


def _peers(request: web.Request) -> Peers:
    peers = request.app[GATEWAY].peers
    if peers is None or not peers.hops.is_hop(request.headers):
        raise ForbiddenError("only the other routers that this one was given by --peers may ask this")
    return peers
