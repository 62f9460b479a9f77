"""`/v1/models`, `/model_info`: what this deployment has."""

import time
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from prefillshare.routing.errors import UnavailableError, UnknownModelError
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.keys import GATEWAY
from prefillshare.routing.replies import json_reply


async def list_models(request: web.Request) -> web.Response:
    """The decode modules; the prefill module never decodes, so it is no model to call."""
    gateway = request.app[GATEWAY]
    return json_reply({"object": "list", "data": [_card(gateway, name) for name in gateway.pool.modules()]})


async def get_model(request: web.Request) -> web.Response:
    """One decode module; 404 with the list for any other name."""
    gateway = request.app[GATEWAY]
    name, modules = request.match_info["name"], gateway.pool.modules()
    if name not in modules:
        raise UnknownModelError(
            f"model {name!r} does not exist; this deployment has: {', '.join(modules)}", param="model"
        )
    return json_reply(_card(gateway, name))


async def model_info(request: web.Request) -> web.Response:
    """What a prefill worker says about the base, and the decode modules."""
    gateway = request.app[GATEWAY]
    for worker in gateway.pool.prefill():
        if not worker.is_available:
            continue
        try:
            status, content = await gateway.client.fetch(
                worker, "/model_info", timeout_s=gateway.settings.router.health_timeout_s
            )
        except (aiohttp.ClientError, OSError):
            continue
        if status == 200:
            return json_reply({**orjson.loads(content), "decode_modules": gateway.pool.modules()})
    raise UnavailableError("no prefill worker is up to tell about the model: try again later")


def _card(gateway: Gateway, name: str) -> dict[str, Any]:
    cards = [worker.card for worker in gateway.pool.replicas(name)]
    lengths = [card["max_model_len"] for card in cards if card.get("max_model_len")]
    return {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "prefillshare",
        "root": name,
        "parent": gateway.settings.base_model,
        "max_model_len": min(lengths, default=None),
    }
