"""JSON answers of the router itself."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from prefillshare.wire.text import as_json


def json_reply(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return `content` as a JSON answer."""
    return web.Response(
        body=as_json(content), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )
