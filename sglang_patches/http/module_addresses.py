"""An address for each decode module, for clients that can name an address but no model.

Target: none; ``http_routes`` adds these routes when the server state is set.
Why: SGLang's frontend language (``sgl.RuntimeEndpoint``) sends neither ``model`` nor
    ``lora_path``, so its programs would always be answered by the prefill module.
How: ``/modules`` lists the modules; below ``/modules/NAME`` stand the routes that the
    frontend asks, and ``/generate`` there is answered by NAME unless the body names an
    adapter itself. The handlers are SGLang's own.
Upstream: sglang/lang/backend/runtime_endpoint.py at 0.5.17.
Remove when: the frontend can name a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefillshare.wire.text import as_json
from sglang_patches.http.model_names import get_tokenizer_manager, resolve_or_404, served_names
from sglang_patches.http.request_state import tenant_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

SHARED_ROUTES = (
    "/get_model_info",
    "/model_info",
    "/server_info",
    "/get_server_info",
    "/flush_cache",
)
"""What an endpoint is asked besides ``/generate``; the same for every module."""


def add_routes(app: Any) -> None:
    """Add the routes to SGLang's application; the keys they need are those of the routes they stand for."""
    from fastapi import Depends
    from fastapi.params import Depends as Dependency
    from starlette.routing import Route

    known: list[Dependency] = [Depends(check_module)]
    for route in [route for route in app.router.routes if getattr(route, "path", None) in SHARED_ROUTES]:
        app.add_api_route(f"/modules/{{module}}{route.path}", route.endpoint, methods=route.methods, dependencies=known)
    app.add_api_route("/modules/{module}/generate", _generate_route(), methods=["POST", "PUT"], dependencies=known)
    app.router.routes.append(Route("/modules", list_modules))


def check_module(module: str) -> None:
    """Raises: HTTPException with status 404 and the list of names."""
    resolve_or_404(get_tokenizer_manager(), module)


async def list_modules(request: Request) -> Response:
    """Names of the modules that whoever asks may call, and the chat template that all of them share."""
    from starlette.responses import Response

    prefill, decode = served_names(get_tokenizer_manager())
    template = getattr(get_tokenizer_manager().tokenizer, "chat_template", None)
    account = tenant_of(request)
    told = {
        "prefill": prefill,
        "decode": [name for name in decode if account is None or account.allows(name)],
        "chat_template": template if isinstance(template, str) else None,
    }
    return Response(as_json(told), media_type="application/json")


def _generate_route() -> Any:
    from fastapi import Request
    from sglang.srt.entrypoints import http_server
    from sglang.srt.managers.io_struct import GenerateReqInput

    async def generate(module: str, obj: Any, request: Any) -> Any:
        if obj.lora_path is None:
            obj.lora_path = resolve_or_404(get_tokenizer_manager(), module)
        return await http_server.generate_request(obj, request)

    # FastAPI reads the annotations, and those of this file are text; the types are known only here.
    generate.__annotations__ = {"module": str, "obj": GenerateReqInput, "request": Request, "return": Any}
    return generate
