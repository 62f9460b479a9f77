"""`/deployment/state`, `/metrics`: the whole deployment in numbers."""

from aiohttp import web

from prefillshare.observe.exposition import CONTENT_TYPE
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply


async def deployment_state(request: web.Request) -> web.Response:
    """What a dashboard shows."""
    return json_reply(await request.app[GATEWAY].monitor.state())


async def metrics(request: web.Request) -> web.Response:
    """The same for Prometheus, and the workers' own metrics."""
    return web.Response(body=await request.app[GATEWAY].monitor.metrics(), headers={"Content-Type": CONTENT_TYPE})
