"""The door to the decode modules of a running engine.

    PUT /modules/NAME            {"path": DIRECTORY}      adds one
    POST /modules/NAME/reload                             reads its directory again
    DELETE /modules/NAME                                  removes it, after its calls
    GET, PUT, DELETE /aliases, /aliases/NAME              {"module": NAME} or {"weights": {NAME: SHARE, ...}}

Changes want the key that SGLang's ``/load_lora_adapter`` wants: the admin key where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

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


async def list_aliases() -> Any:
    """The aliases, each with the module or the weights that it means."""
    return {"aliases": as_table(module_names(get_tokenizer_manager()).aliases)}


def _make_handler(changes: ModuleChanges, change: Change, *, has_body: bool) -> Any:
    from fastapi import Request
    from fastapi.responses import ORJSONResponse
    from sglang.srt.utils.auth import AuthLevel, auth_level

    @auth_level(AuthLevel.ADMIN_OPTIONAL)
    async def handle(name: str, request: Any) -> Any:
        try:
            body = _read(await request.body()) if has_body else None
            return ORJSONResponse(await change(changes, name, body))
        except ChangeRefusedError as error:
            found = error_object(str(error), kind="invalid_request_error", code=_TYPES.get(error.status))
            return ORJSONResponse({"error": found}, status_code=error.status)

    # FastAPI reads the annotations, and those of this file are text; the types are known only here.
    handle.__annotations__ = {"name": str, "request": Request, "return": Any}
    return handle


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise ChangeRefusedError(f"the body is not JSON ({error}): send a JSON object") from None
