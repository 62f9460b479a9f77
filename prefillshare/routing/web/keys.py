"""Where the web application keeps its router."""

from aiohttp import web

from prefillshare.routing.gateway import Gateway
from prefillshare.tenants.account import Account

GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)
ACCOUNT: web.RequestKey[Account] = web.RequestKey("account", Account)
"""Where a request keeps the tenant whose it is; not there for everybody else's."""


def account_of(request: web.Request) -> Account | None:
    """Return the tenant whose request it is; None for everybody else's."""
    return request.get(ACCOUNT)
