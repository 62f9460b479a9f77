"""``GET /prefillshare/continuation?rid=`` of a decode worker: what its router may have computed ahead, told once."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from prefillshare.contract import CONTINUATION_PATH
from prefillshare.wire.errors import error_object
from prefillshare.wire.text import as_json, shorten
from sglang_patches.http.model_names import get_tokenizer_manager

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    from sglang_patches.eager.kept import Kept


def add_routes(app: FastAPI, kept: Kept | None) -> None:
    """Serve the path, where answers are computed ahead by others."""
    from starlette.routing import Route

    if kept is not None:
        app.router.routes.insert(0, Route(CONTINUATION_PATH, get_continuation))


async def get_continuation(request: Request) -> Response:
    """The continuation of one answer; 404 where there is none."""
    from starlette.responses import JSONResponse, Response

    answers = get_tokenizer_manager().ended_answers
    rid = request.query_params.get("rid", "")
    found = None if answers is None or answers.kept is None else await answers.kept.take(rid)
    if found is None:
        error = error_object(f"no continuation is known of rid {shorten(rid, 64)!r}", kind="not_found", param="rid")
        return JSONResponse({"error": error}, status_code=404)
    return Response(as_json(asdict(found)), media_type="application/json")
