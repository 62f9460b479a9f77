"""``GET /v1/models/NAME`` for decode modules, and the addresses of ``module_addresses``.

Target: ``sglang.srt.entrypoints.http_server.set_global_state``
Why: the list of models names the decode modules, but asking for one of them by name
    says that it does not exist.
How: when the server state is set, before any connection is taken, the route is
    replaced by one that looks the name up in that list.
Upstream: sglang/srt/entrypoints/http_server.py:207,1855 at 0.5.17.
Remove when: upstream's route knows adapters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches.module_addresses import add_routes

ROUTE = "/v1/models/{model:path}"


def wrap_set_global_state(original: Callable[..., None]) -> Callable[..., None]:
    def set_global_state(global_state: Any) -> None:
        original(global_state)
        _replace_route()
        add_routes()

    return set_global_state


def _replace_route() -> None:
    from sglang.srt.entrypoints.http_server import app

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
