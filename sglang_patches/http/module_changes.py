"""The door to the decode modules of a running engine.

    PUT /modules/NAME            {"path": DIRECTORY}      adds one
    POST /modules/NAME/reload                             reads its directory again
    DELETE /modules/NAME                                  removes it, after its calls
    GET, PUT, DELETE /aliases, /aliases/NAME              {"module": NAME} or {"weights": {NAME: SHARE, ...}}

Changes want the key that SGLang's ``/load_lora_adapter`` wants: the admin key where there is one. That path, and
``/unload_lora_adapter``, stand for the first and the third: what SGLang does there knows no aliases, and calls for an
adapter that it has unloaded load it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from prefillshare.naming.alias import as_table
from prefillshare.wire.aliases import read_meaning
from prefillshare.wire.errors import error_object
from sglang_patches.http.model_names import get_tokenizer_manager, module_names
from sglang_patches.modules.changes import ChangeRefusedError, ModuleChanges

if TYPE_CHECKING:
    from fastapi import FastAPI

Change = Callable[[ModuleChanges, str, Any], Awaitable[dict[str, Any]]]

_TYPES = {404: "not_found", 409: "conflict"}


def add_routes(app: FastAPI) -> None:
    """Serve the paths of changes."""
    changes = ModuleChanges(get_tokenizer_manager())
    doors: tuple[tuple[str, str, Change], ...] = (
        ("PUT", "/modules/{name}", lambda desk, name, body: desk.add(name, body)),
        ("POST", "/modules/{name}/reload", lambda desk, name, body: desk.reload(name)),
        ("DELETE", "/modules/{name}", lambda desk, name, body: desk.remove(name)),
        ("PUT", "/aliases/{name}", lambda desk, name, body: desk.set_alias(name, read_meaning(body))),
        ("DELETE", "/aliases/{name}", lambda desk, name, body: desk.drop_alias(name)),
    )
    for method, path, change in doors:
        app.add_api_route(path, _make_handler(changes, change, has_body=method == "PUT"), methods=[method])
    app.add_api_route("/aliases", list_aliases, methods=["GET"])
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) not in _UPSTREAM]
    for path, upstream_change in _UPSTREAM.items():
        app.add_api_route(path, _make_handler(changes, upstream_change, has_body=True), methods=["POST"])


async def _load(changes: ModuleChanges, name: str, body: Any) -> dict[str, Any]:
    name, path = _read_member(body, "lora_name"), _read_member(body, "lora_path")
    if body.get("pinned"):
        raise ChangeRefusedError("pinned is true: every module has a slot, or waits for one (slots under [modules])")
    told = await changes.add(name, {"path": str(Path(path).absolute()), "kind": "lora"})
    return {"success": True, "error_message": "", "loaded_adapters": {name: told["path"]}}


async def _unload(changes: ModuleChanges, name: str, body: Any) -> dict[str, Any]:
    await changes.remove(_read_member(body, "lora_name"))
    return {"success": True, "error_message": "", "loaded_adapters": {}}


_UPSTREAM: dict[str, Change] = {"/load_lora_adapter": _load, "/unload_lora_adapter": _unload}


def _read_member(body: Any, member: str) -> str:
    value = body.get(member) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise ChangeRefusedError(f"{member} is missing: send a JSON object with it")
    return value


async def list_aliases() -> Any:
    """The aliases, each with the module or the weights that it means."""
    return {"aliases": as_table(module_names(get_tokenizer_manager()).aliases)}


def _make_handler(changes: ModuleChanges, change: Change, *, has_body: bool) -> Any:
    from fastapi import Request
    from fastapi.responses import ORJSONResponse
    from sglang.srt.utils.auth import AuthLevel, auth_level

    @auth_level(AuthLevel.ADMIN_OPTIONAL)
    async def handle(request: Any) -> Any:
        try:
            body = _read(await request.body()) if has_body else None
            return ORJSONResponse(await change(changes, request.path_params.get("name", ""), body))
        except ChangeRefusedError as error:
            found = error_object(str(error), kind="invalid_request_error", code=_TYPES.get(error.status))
            return ORJSONResponse({"error": found}, status_code=error.status)

    # FastAPI reads the annotations, and those of this file are text; the types are known only here.
    handle.__annotations__ = {"request": Request, "return": Any}
    return handle


def _read(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:  # what is nested without an end, too
        raise ChangeRefusedError(f"the body is not JSON ({error}): send a JSON object") from None
