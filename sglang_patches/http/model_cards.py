"""``GET /v1/models`` in the order of the deployment file, and ``GET /v1/models/NAME`` for decode modules.

SGLang lists adapters by last use, and denies that they exist when one is asked for by name. Modules that answer badly
over shared KV come with a warning.
"""

from __future__ import annotations

from typing import Any

from prefillshare.naming.alias import describe_alias
from sglang_patches.http.model_names import get_tokenizer_manager, module_names, module_warnings

LIST_ROUTE = "/v1/models"
ROUTE = "/v1/models/{model:path}"


def replace_route(app: Any) -> None:
    """Serve both paths by ours instead of upstream's, which denies decode modules and knows no warnings."""
    kept = [r for r in app.router.routes if getattr(r, "path", None) not in (LIST_ROUTE, ROUTE)]
    app.router.routes[:] = kept
    app.get(LIST_ROUTE)(list_models)
    app.get(ROUTE)(retrieve_model)


async def list_models() -> Any:
    """The prefill module and the decode modules as in the deployment file."""
    from fastapi.responses import ORJSONResponse

    return ORJSONResponse({"object": "list", "data": await _cards()})


async def retrieve_model(model: str) -> Any:
    """The card of one model; 404 with the list of names for any other."""
    from fastapi.responses import ORJSONResponse

    cards = await _cards()
    found = next((card for card in cards if card["id"] == model), None)
    if found is not None:
        return ORJSONResponse(found)
    known = ", ".join(card["id"] for card in cards)
    error = {
        "message": f"model {model!r} does not exist; this server has: {known}",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    return ORJSONResponse(status_code=404, content={"error": error})


async def _cards() -> list[dict[str, Any]]:
    from sglang.srt.entrypoints.http_server import available_models

    names = module_names(get_tokenizer_manager())
    order = {name: place for place, name in enumerate((names.base, *names.modules))}
    warnings = module_warnings()
    cards = [{**card.model_dump(), "warning": warnings.get(card.id)} for card in (await available_models()).data]
    cards.sort(key=lambda card: order.get(card["id"], len(order)))
    by_name = {card["id"]: card for card in cards}
    aliases = names.aliases
    shown = ({"id": alias.name, "warning": None, **describe_alias(alias, aliases)} for alias in aliases.values())
    return [*cards, *({**by_name[card["root"]], **card} for card in shown if card["root"] in by_name)]
