"""``GET /v1/models/NAME`` for decode modules: the name is looked up in the list of all models."""

from __future__ import annotations

from typing import Any

ROUTE = "/v1/models/{model:path}"


def replace_route(app: Any) -> None:
    """Serve the path by ours instead of upstream's, which denies decode modules."""
    kept = [r for r in app.router.routes if getattr(r, "path", None) != ROUTE]
    app.router.routes[:] = kept
    app.get(ROUTE)(retrieve_model)


async def retrieve_model(model: str) -> Any:
    """The card of one model; 404 with the list of names for any other."""
    from fastapi.responses import ORJSONResponse
    from sglang.srt.entrypoints.http_server import available_models

    cards = (await available_models()).data
    found = next((card for card in cards if card.id == model), None)
    if found is not None:
        return found
    known = ", ".join(card.id for card in cards)
    error = {
        "message": f"model {model!r} does not exist; this server has: {known}",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    return ORJSONResponse(status_code=404, content={"error": error})
