"""``GET /v1/models`` in the order of the deployment file, and ``GET /v1/models/NAME`` for decode modules.

SGLang lists adapters by last use, and denies that they exist when one is asked for by name. Modules that answer badly
over shared KV come with a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefillshare.naming.alias import describe_alias
from prefillshare.wire.errors import error_object
from prefillshare.wire.text import as_json
from sglang_patches.http.model_names import get_tokenizer_manager, module_names, module_warnings
from sglang_patches.http.request_state import tenant_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from prefillshare.tenants.account import Account

LIST_ROUTE = "/v1/models"
ROUTE = "/v1/models/{model:path}"


def replace_route(app: Any) -> None:
    """Serve both paths by ours instead of upstream's, which denies decode modules and knows no warnings."""
    from starlette.routing import Route

    kept = [r for r in app.router.routes if getattr(r, "path", None) not in (LIST_ROUTE, ROUTE)]
    app.router.routes[:] = [Route(LIST_ROUTE, list_models), Route(ROUTE, retrieve_model), *kept]


async def list_models(request: Request) -> Response:
    """The prefill module and the decode modules as in the deployment file, those that whoever asks may call."""
    return _reply({"object": "list", "data": await _cards(tenant_of(request))})


async def retrieve_model(request: Request) -> Response:
    """The card of one model; 404 with the list of names for any other."""
    model, cards = request.path_params["model"], await _cards(tenant_of(request))
    found = next((card for card in cards if card["id"] == model), None)
    if found is not None:
        return _reply(found)
    known = ", ".join(card["id"] for card in cards)
    message = f"model {model!r} does not exist; this server has: {known}"
    error = error_object(message, kind="invalid_request_error", param="model", code="model_not_found")
    return _reply({"error": error}, status=404)


def _reply(content: Any, *, status: int = 200) -> Response:
    from starlette.responses import Response

    return Response(as_json(content), status_code=status, media_type="application/json")


async def _cards(account: Account | None) -> list[dict[str, Any]]:
    from sglang.srt.entrypoints.http_server import available_models

    names = module_names(get_tokenizer_manager())
    order = {name: place for place, name in enumerate((names.base, *names.modules))}
    warnings = module_warnings()
    cards = [{**card.model_dump(), "warning": warnings.get(card.id)} for card in (await available_models()).data]
    names = names if account is None else names.only(account.allows)
    if account is not None:
        # Where the files of a module lie is the operator's business.
        cards = [{**card, "root": card["id"]} for card in cards if account.allows(card["id"])]
    cards.sort(key=lambda card: order.get(card["id"], len(order)))
    by_name = {card["id"]: card for card in cards}
    aliases = names.aliases
    shown = ({"id": alias.name, "warning": None, **describe_alias(alias, aliases)} for alias in aliases.values())
    return [*cards, *({**by_name[card["root"]], **card} for card in shown if card["root"] in by_name)]
