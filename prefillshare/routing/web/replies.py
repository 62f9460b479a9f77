"""The router's own answers, as JSON: what was asked for, or why it cannot be had."""

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from prefillshare.routing.errors import RoutingError, ShortageError, error_body
from prefillshare.wire.errors import anthropic_error
from prefillshare.wire.text import as_json

log = logging.getLogger(__name__)


def log_failure(method: str, path: str, error: RoutingError) -> None:
    """Tell the log of a request that failed by the deployment's fault."""
    if error.status >= 500 and not isinstance(error, ShortageError):
        log.warning("%s %s: %s", method, path, error)


def json_reply(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return `content` as a JSON answer."""
    return web.Response(
        body=as_json(content), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def error_reply(error: RoutingError, *, status: int | None = None) -> web.Response:
    """Return the answer for `error`, under another status than its own if `status` is given."""
    return json_reply(error_body(error), status=status or error.status, headers=error.headers)


def as_anthropic(response: web.StreamResponse) -> web.StreamResponse:
    """Return an error answer in Anthropic's form; anything else as it is."""
    if response.status < 400 or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    response.body = anthropic_error(response.body, response.status)
    return response
