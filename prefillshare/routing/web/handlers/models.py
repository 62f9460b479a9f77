"""`/v1/models`, `/model_info`, `/server_info`, `/modules`: what this deployment has."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from prefillshare.routing.errors import UnavailableError, UnknownModelError
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SHARED_SERVER_INFO = (
    "model_path tokenizer_path served_model_name version dtype kv_cache_dtype context_length page_size "
    "max_total_num_tokens chunked_prefill_size"
).split()


async def list_models(request: web.Request) -> web.Response:
    """The decode modules; the prefill module never decodes, so it is no model to call."""
    gateway = request.app[GATEWAY]
    return json_reply({"object": "list", "data": [_card(gateway, name) for name in gateway.pool.modules()]})


async def get_model(request: web.Request) -> web.Response:
    """One decode module; 404 with the list for any other name."""
    gateway = request.app[GATEWAY]
    name = request.match_info["name"]
    _check_name(gateway, name, gateway.pool.modules())
    return json_reply(_card(gateway, name))


async def model_info(request: web.Request) -> web.Response:
    """What a prefill worker says about the base, and the decode modules."""
    gateway = request.app[GATEWAY]
    return json_reply({**await _told(gateway, "/model_info"), "decode_modules": gateway.pool.modules()})


async def server_info(request: web.Request) -> web.Response:
    """Of what a prefill worker says about itself, what holds for the whole deployment; the rest may hold its keys."""
    gateway = request.app[GATEWAY]
    told = await _told(gateway, "/server_info")
    shared = {name: told[name] for name in _SHARED_SERVER_INFO if name in told}
    workers = [worker.summary() for worker in gateway.pool]
    return json_reply({**shared, "decode_modules": gateway.pool.modules(), "workers": workers})


async def list_modules(request: web.Request) -> web.Response:
    """Names of the modules, and the chat template that all of them share."""
    gateway = request.app[GATEWAY]
    template = (await _told(gateway, "/modules")).get("chat_template")
    return json_reply(
        {"prefill": gateway.settings.base_model, "decode": gateway.pool.modules(), "chat_template": template}
    )


def of_module(handler: Handler) -> Handler:
    """Return `handler` for an address below `/modules/NAME`; 404 with the list when there is no such module."""

    async def handle(request: web.Request) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        _check_name(gateway, request.match_info["module"], (gateway.settings.base_model, *gateway.pool.modules()))
        return await handler(request)

    return handle


def _check_name(gateway: Gateway, name: str, names: Sequence[str]) -> None:
    if name not in names:
        known = ", ".join(gateway.pool.modules())
        raise UnknownModelError(f"model {name!r} does not exist; this deployment has: {known}", param="model")


async def _told(gateway: Gateway, path: str) -> dict[str, Any]:
    """Return what the first prefill worker that answers says at `path`.

    Raises: UnavailableError.
    """
    for worker in gateway.pool.prefill():
        if not worker.is_available:
            continue
        try:
            status, content = await gateway.client.fetch(
                worker, path, timeout_s=gateway.settings.router.health_timeout_s
            )
        except (aiohttp.ClientError, OSError):
            continue
        if status == 200:
            told: dict[str, Any] = orjson.loads(content)
            return told
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
        "warning": gateway.pool.warning(name),
    }
