"""`/modules/NAME`, `/aliases/NAME`, `/router/changes`: modules and aliases that change while the router serves."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import orjson
from aiohttp import web

from prefillshare.errors import AnswerError, ConfigError, ModuleError
from prefillshare.modules.heads import read_classifier
from prefillshare.naming.alias import AnyAlias, as_table, check_aliases, find_user, read_alias
from prefillshare.routing.changes.desk import ChangeRefusedError
from prefillshare.routing.errors import (
    BadCallError,
    ConflictError,
    NotFoundError,
    RoutingError,
    UnknownModelError,
    WorkerFailedError,
)
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.parts import Parts
from prefillshare.routing.web.bodies import read_body
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply
from prefillshare.routing.workers.answer import read_object
from prefillshare.routing.workers.leg import LegFailedError
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.aliases import read_meaning
from prefillshare.wire.errors import error_text

_log = logging.getLogger(__name__)

RELOAD_TIMEOUT_S = 300.0
"""Longest time in which a worker reads an adapter."""


async def add(request: web.Request) -> web.Response:
    """Let a module come: its workers are started, and it is there when they answer."""
    gateway, name = request.app[GATEWAY], request.match_info["module"]
    table = await _read(request)
    async with gateway.desk.lock:
        if taken := gateway.parts.names().is_taken(name):
            fix = "reload it, or choose another name" if taken == "a decode module" else "choose another name"
            raise ConflictError(f"name {name!r} is that of {taken}: {fix}")
        return json_reply(await _to_its_end(_bring(gateway, name, table)))


async def _to_its_end(change: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Make a change that goes on when whoever waits for it leaves; what comes of it stands in the log then."""
    task = asyncio.create_task(change)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_note_what_came)
        raise


def _note_what_came(change: "asyncio.Task[dict[str, Any]]") -> None:
    if not change.cancelled() and (error := change.exception()):
        _log.warning("a change whose caller had left was not made: %s", error)


async def _bring(gateway: Gateway, name: str, table: object) -> dict[str, Any]:
    """Let the launcher start a module's workers."""
    told = await gateway.desk.ask("add", name, table)
    gateway.parts.pool.declare(name)
    _note(gateway, name, f"it was added, from {told['path']}")
    return told


async def reload(request: web.Request) -> web.Response:
    """Let the workers of a module read it again; calls that run end on the version that they began with."""
    gateway, name = request.app[GATEWAY], request.match_info["module"]
    async with gateway.desk.lock:
        _find(gateway, name)
        workers = gateway.parts.pool.replicas(name)
        # An engine's cache holds KV of the adapter as it was: another one takes its place.
        if any(worker.is_adapter and worker.spec.role == "decode" for worker in workers):
            # The first one that refuses ends it: they all have the same files before them.
            [told, *_] = [await _reload_adapter(gateway, worker, name) for worker in workers]
        else:
            told = await gateway.desk.ask("reload", name)
        _note(gateway, name, f"it was read anew, from {told['path']}")
        return json_reply(told)


async def remove(request: web.Request) -> web.Response:
    """Take no further calls for a module, and end its workers when those that run have ended."""
    gateway, name = request.app[GATEWAY], request.match_info["module"]
    async with gateway.desk.lock:
        _find(gateway, name)
        if alias := find_user(gateway.parts.aliases, name):
            raise ConflictError(
                f"alias {alias!r} means module {name!r}: give the alias another meaning, or remove it first"
            )
        pool = gateway.parts.pool
        if len(pool.modules()) == 1:
            raise ConflictError(f"module {name!r} is the only one of this deployment: add another one first")
        if gateway.desk.folder is None and not pool.replicas(name):
            pool.forget(name)  # nobody has to be asked
            _note(gateway, name, "it was removed, its workers had left")
            return json_reply({"name": name})
        return json_reply(await _to_its_end(_retire(gateway, name)))


async def _retire(gateway: Gateway, name: str) -> dict[str, Any]:
    """Let a module be none any more unless the launcher refuses."""
    pool = gateway.parts.pool
    pool.retire(name)
    try:
        told = await gateway.desk.ask("remove", name)
    except RoutingError:
        pool.declare(name)
        raise
    _note(gateway, name, "it was removed, and its calls have ended")
    return told


async def list_aliases(request: web.Request) -> web.Response:
    """The aliases, each with the module or the weights that it means."""
    return json_reply({"aliases": as_table(request.app[GATEWAY].parts.aliases)})


async def set_alias(request: web.Request) -> web.Response:
    """Let a name mean a module, or several by weight, by rules or by a classifier."""
    gateway, name = request.app[GATEWAY], request.match_info["name"]
    meaning = read_meaning(await _read(request))
    async with gateway.desk.lock:
        names = gateway.parts.names()
        try:
            alias = await asyncio.to_thread(
                read_classifier, read_alias(name, meaning), gateway.parts.settings.fingerprint
            )
            aliases = {**names.aliases, name: alias}
            check_aliases(aliases, names.base, names.modules)
        except (ConfigError, ModuleError) as error:
            raise BadCallError(str(error)) from None
        return await _change_alias(gateway, name, aliases[name])


async def drop_alias(request: web.Request) -> web.Response:
    """Forget an alias."""
    gateway, name = request.app[GATEWAY], request.match_info["name"]
    async with gateway.desk.lock:
        aliases = dict(gateway.parts.aliases)
        if aliases.pop(name, None) is None:
            raise NotFoundError(f"there is no alias {name!r}; there are: {', '.join(aliases) or 'none'}")
        if user := find_user(aliases, name):
            raise ConflictError(f"alias {user!r} means {name!r}: change its rules first")
        return await _change_alias(gateway, name, None)


async def hear(request: web.Request) -> web.Response:
    """Hear from the launcher what became of a wish."""
    request.app[GATEWAY].desk.hear(await _read(request))
    return json_reply({})


async def _change_alias(gateway: Gateway, name: str, alias: AnyAlias | None) -> web.Response:
    parts = gateway.parts
    parts.book.change(name, alias)
    note_aliases(parts)
    told: dict[str, Any] = {"aliases": as_table(parts.aliases)}
    if gateway.peers is not None:
        told["routers"] = await gateway.peers.exchange.tell_aliases()
    return json_reply(told)


def note_aliases(parts: Parts) -> None:
    """Tell people which aliases there are now."""
    parts.observer.events.tell("module", ", ".join(parts.aliases) or "none", "these are the aliases now")


def _note(gateway: Gateway, module: str, message: str) -> None:
    gateway.parts.observer.events.tell("module", module, message)


def _find(gateway: Gateway, name: str) -> None:
    names = gateway.parts.names()
    if name not in names.modules:
        raise UnknownModelError(f"module {name!r} does not exist; this deployment has: {names.describe()}")


async def _reload_adapter(gateway: Gateway, worker: Worker, name: str) -> dict[str, Any]:
    try:
        status, content = await gateway.parts.client.fetch(
            worker, f"/modules/{name}/reload", method="POST", timeout_s=RELOAD_TIMEOUT_S
        )
    except TimeoutError:
        raise WorkerFailedError(
            f"worker {worker.id} still has calls of the version before the present one after {RELOAD_TIMEOUT_S:.0f} s, "
            "and takes the new one when they have ended"
        ) from None
    except OSError as error:
        raise WorkerFailedError(f"worker {worker.id} does not answer ({error}): try again when it is up") from None
    if status != 200:
        raise ChangeRefusedError(f"worker {worker.id}: {error_text(content)}", status)
    try:
        return _read_told(content)
    except AnswerError as error:
        failure = LegFailedError(worker, str(error))
        gateway.parts.health.record_failure(failure)
        raise WorkerFailedError(f"{failure}: look at its log, and reload {name!r} again") from None


def _read_told(content: bytes) -> dict[str, Any]:
    """Return what a worker says of a module that it has read.

    Raises: AnswerError.
    """
    told = read_object(content)
    if not isinstance(told.get("path"), str):
        raise AnswerError("read the module anew and did not say from where")
    return told


async def _read(request: web.Request) -> Any:
    try:
        return orjson.loads(await read_body(request, request.app[GATEWAY].parts.settings.router))
    except orjson.JSONDecodeError as error:
        raise BadCallError(f"the body is not JSON ({error}): send a JSON object") from None
