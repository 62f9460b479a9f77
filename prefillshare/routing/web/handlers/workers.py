"""`/workers`: who is there, who joins, who leaves."""

import orjson
from aiohttp import web

from prefillshare.errors import ConfigError
from prefillshare.routing.errors import BadCallError
from prefillshare.routing.web.bodies import read_body
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply
from prefillshare.routing.workers.spec import WorkerSpec, read_spec


async def list_workers(request: web.Request) -> web.Response:
    """All workers with role, module, state and load, and the queue of each module."""
    parts = request.app[GATEWAY].parts
    queued = {name: parts.admission.num_queued(name) for name in parts.pool.modules()}
    return json_reply({"workers": [worker.summary() for worker in parts.pool], "queued": queued})


async def join(request: web.Request) -> web.Response:
    """Let the worker that the body describes join."""
    return json_reply(request.app[GATEWAY].join(await _read_spec(request)).summary(), status=201)


async def announce(request: web.Request) -> web.Response:
    """Hear from a worker that it is there; it repeats this, and joins with the first time.

    With `?check` it asks whether it may join once it is there, and does not join yet.
    """
    spec = await _read_spec(request)
    if spec.id != request.match_info["id"]:
        raise BadCallError(f"the path names worker {request.match_info['id']!r} and the body {spec.id!r}: name one")
    gateway = request.app[GATEWAY]
    if "check" in request.query:
        gateway.check_fingerprint(spec)
        return json_reply({"id": spec.id})
    worker, has_joined = await gateway.announce(spec)
    order = gateway.conductor.order_for(worker.id) if gateway.conductor is not None else None
    told = {**worker.summary(), **({"order": order.as_dict()} if order is not None else {})}
    return json_reply(told, status=201 if has_joined else 200)


async def _read_spec(request: web.Request) -> WorkerSpec:
    try:
        return read_spec(orjson.loads(await read_body(request, request.app[GATEWAY].parts.settings.router)))
    except orjson.JSONDecodeError as error:
        raise BadCallError(f"the body is not JSON ({error}): send a worker as a JSON object") from None
    except ConfigError as error:
        raise BadCallError(str(error)) from None


async def leave(request: web.Request) -> web.Response:
    """Let a worker finish its calls and leave; answers when it has left."""
    return json_reply(await request.app[GATEWAY].leave(request.match_info["id"]))
