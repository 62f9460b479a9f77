"""Which deployment this worker belongs to, and how it proves that to others.

The launcher names a private file; without one (an engine that was started by hand), nothing is proved and whoever
reaches the ports is believed, as by SGLang itself.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from prefillshare.contract import PEER_SECRET_VARIABLE
from prefillshare.peer_keys import PeerKeys
from prefillshare.private_files import read_private

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler


@cache
def own_keys() -> PeerKeys | None:
    """The keys of this worker's deployment."""
    # Once for each process: the file goes with the launcher, and engines outlive none.
    path = os.environ.get(PEER_SECRET_VARIABLE)
    return PeerKeys(secret=read_private(Path(path), PEER_SECRET_VARIABLE)) if path else None


def own_headers() -> dict[str, str]:
    """What a request to a bootstrap server carries."""
    keys = own_keys()
    return {"Authorization": f"Bearer {keys.token}"} if keys else {}


def refuse_strangers(app: web.Application) -> None:
    """Let a bootstrap server answer parts of the deployment only, whatever they ask."""
    from aiohttp import web

    keys = own_keys()
    if keys is None:
        return

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not keys.is_token(request.headers.get("Authorization")):
            return web.Response(status=401, text="this is for workers of its deployment\n")
        return await handler(request)

    app.middlewares.append(check)


class KnownRequests:
    """The ``requests`` module, but every request says who asks."""

    def __init__(self, requests: ModuleType) -> None:
        self._requests = requests

    def __getattr__(self, name: str) -> Any:
        return getattr(self._requests, name)

    def Session(self) -> Any:
        session = self._requests.Session()
        session.headers.update(own_headers())
        return session

    def get(self, url: str, **options: Any) -> Any:
        return self._requests.get(url, headers=own_headers(), **options)

    def put(self, url: str, **options: Any) -> Any:
        return self._requests.put(url, headers=own_headers(), **options)

    def post(self, url: str, **options: Any) -> Any:
        return self._requests.post(url, headers=own_headers(), **options)
