"""`/v1/models`, `/model_info`, `/server_info`, `/modules`: what this deployment has."""

import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from prefillshare.naming.alias import AnyAlias, describe_alias
from prefillshare.naming.names import Names
from prefillshare.routing.errors import UnknownModelError
from prefillshare.routing.parts import Parts
from prefillshare.routing.web.asking import ask_prefill_workers
from prefillshare.routing.web.keys import GATEWAY, account_of
from prefillshare.routing.web.replies import json_reply
from prefillshare.routing.workers.answer import read_object

_SHARED_SERVER_INFO = (
    "model_path tokenizer_path served_model_name version dtype kv_cache_dtype context_length page_size "
    "max_total_num_tokens chunked_prefill_size"
).split()


async def list_models(request: web.Request) -> web.Response:
    """The decode modules; the prefill module never decodes, so it is no model to call."""
    parts = request.app[GATEWAY].parts
    names = _visible(request)
    cards = [_card(parts, name) for name in names.modules]
    cards += [_alias_card(parts, alias) for alias in names.aliases.values()]
    return json_reply({"object": "list", "data": cards})


async def get_model(request: web.Request) -> web.Response:
    """One decode module; 404 with the list for any other name."""
    parts = request.app[GATEWAY].parts
    name = request.match_info["name"]
    names = _visible(request)
    if (alias := names.aliases.get(name)) is not None:
        return json_reply(_alias_card(parts, alias))
    _check_name(request, name, names.modules)
    return json_reply(_card(parts, name))


async def show_model_info(request: web.Request) -> web.Response:
    """What a prefill worker says about the base, and the decode modules."""
    parts = request.app[GATEWAY].parts
    return json_reply({**await _ask_prefill_worker(parts, "/model_info"), "decode_modules": _visible(request).modules})


async def show_server_info(request: web.Request) -> web.Response:
    """Of what a prefill worker says about itself, what holds for the whole deployment; the rest may hold its keys."""
    parts = request.app[GATEWAY].parts
    information = await _ask_prefill_worker(parts, "/server_info")
    shared = {name: information[name] for name in _SHARED_SERVER_INFO if name in information}
    workers = [worker.summary() for worker in parts.pool]
    return json_reply({**shared, "decode_modules": parts.pool.modules(), "workers": workers})


async def list_modules(request: web.Request) -> web.Response:
    """Names of the modules, and the chat template that all of them share."""
    parts = request.app[GATEWAY].parts
    template = (await _ask_prefill_worker(parts, "/modules")).get("chat_template")
    modules = _visible(request).modules
    return json_reply({"prefill": parts.settings.base_model, "decode": modules, "chat_template": template})


def of_module(handler: Handler) -> Handler:
    """Return `handler` for an address below `/modules/NAME`; 404 with the list when there is no such module."""

    async def handle(request: web.Request) -> web.StreamResponse:
        parts = request.app[GATEWAY].parts
        names = _visible(request)
        known = (parts.settings.base_model, *names.modules, *names.aliases)
        _check_name(request, request.match_info["module"], known)
        return await handler(request)

    return handle


def _visible(request: web.Request) -> Names:
    """Return the names that whoever asks may know of."""
    account, names = account_of(request), request.app[GATEWAY].parts.names()
    return names if account is None else names.only(account.allows)


def _check_name(request: web.Request, name: str, names: Sequence[str]) -> None:
    if name not in names:
        known = _visible(request).describe()
        raise UnknownModelError(f"model {name!r} does not exist; this deployment has: {known}", param="model")


async def _ask_prefill_worker(parts: Parts, path: str) -> dict[str, Any]:
    """Return the JSON object that the first prefill worker to answer has at `path`.

    Raises: UnavailableError, WorkerFailedError.
    """

    def take(status: int, content: bytes) -> dict[str, Any] | None:
        return read_object(content) if status == 200 else None

    timeout_s = parts.settings.router.health_timeout_s
    return await ask_prefill_workers(parts, path, take, timeout_s=timeout_s, why="can describe the model")


def _alias_card(parts: Parts, alias: AnyAlias) -> dict[str, Any]:
    """Return the card of an alias: that of its first module, and what it means."""
    told = describe_alias(alias, parts.aliases)
    return {**_card(parts, told["root"]), "id": alias.name, "warning": None, **told}


def _card(parts: Parts, name: str) -> dict[str, Any]:
    # A call may come to any replica: only what all of them take is promised.
    lengths = [worker.card.max_model_len for worker in parts.pool.replicas(name) if worker.card.max_model_len]
    return {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "prefillshare",
        "root": name,
        "parent": parts.settings.base_model,
        "max_model_len": min(lengths, default=None),
        "warning": parts.pool.warning(name),
    }
