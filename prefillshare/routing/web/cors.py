"""Programs in browsers: any page may call, as with one engine; whoever must not, has no key."""

from collections.abc import Sequence

from aiohttp import web

_ANY = {"Access-Control-Allow-Origin": "*"}
_MAX_AGE_S = 600


async def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page that asked read the answer. Nothing here depends on cookies, so any page may."""
    if "Origin" in request.headers:
        response.headers.update(_ANY)


def answer_preflight(request: web.Request, methods: Sequence[str]) -> web.Response | None:
    """Return what a browser asks before the call itself; None where `request` asks nothing of the kind."""
    wanted = request.headers.get("Access-Control-Request-Headers", "").encode("ascii", "replace").decode()
    if "Origin" not in request.headers or "Access-Control-Request-Method" not in request.headers:
        return None
    headers = {"Access-Control-Allow-Methods": ", ".join(methods), "Access-Control-Max-Age": str(_MAX_AGE_S)}
    return web.Response(headers=headers | ({"Access-Control-Allow-Headers": wanted} if wanted else {}))
