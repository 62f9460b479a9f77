"""Where the web application keeps its router."""

from aiohttp import web

from prefillshare.routing.gateway import Gateway

GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)
