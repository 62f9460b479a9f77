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

from typing import Any

from sglang_patches.http.model_names import get_tokenizer_manager, resolve_or_404, served_names

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

    known: list[Dependency] = [Depends(check_module)]
    for route in [route for route in app.router.routes if getattr(route, "path", None) in SHARED_ROUTES]:
        app.add_api_route(f"/modules/{{module}}{route.path}", route.endpoint, methods=route.methods, dependencies=known)
    app.add_api_route("/modules/{module}/generate", _generate_route(), methods=["POST", "PUT"], dependencies=known)
    app.add_api_route("/modules", list_modules, methods=["GET"])


def check_module(module: str) -> None:
    """Raises: HTTPException with status 404 and the list of names."""
    resolve_or_404(get_tokenizer_manager(), module)


async def list_modules() -> dict[str, Any]:
    """Names of the modules, and the chat template that all of them share."""
    prefill, decode = served_names(get_tokenizer_manager())
    template = getattr(get_tokenizer_manager().tokenizer, "chat_template", None)
    return {
        "prefill": prefill,
        "decode": decode,
        "chat_template": template if isinstance(template, str) else None,
    }


def _generate_route() -> Any:
    from fastapi import Request
    from sglang.srt.entrypoints import http_server
    from sglang.srt.managers.io_struct import GenerateReqInput

    async def generate(module: str, obj: Any, request: Any) -> Any:
        if obj.lora_path is None:
            # An alias in the address is drawn here, one in the body where that is read.
            obj.lora_path = resolve_or_404(get_tokenizer_manager(), module)
        return await http_server.generate_request(obj, request)

    # FastAPI reads the annotations, and those of this file are text; the types are known only here.
    generate.__annotations__ = {"module": str, "obj": GenerateReqInput, "request": Request, "return": Any}
    return generate
