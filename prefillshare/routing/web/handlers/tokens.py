"""`/tokenize`, `/detokenize`, `/v1/messages/count_tokens`: any worker can tell, for all modules have one tokenizer."""

from aiohttp import web
from aiohttp.typedefs import Handler

from prefillshare.errors import short_repr
from prefillshare.naming.asked import Asked
from prefillshare.naming.bodies import replace_aliases
from prefillshare.routing.call.call import Body
from prefillshare.routing.call.parse import read_object, write_object
from prefillshare.routing.errors import BadCallError, UnknownModelError
from prefillshare.routing.parts import Parts
from prefillshare.routing.web.asking import ask_prefill_workers
from prefillshare.routing.web.bodies import read_json_body
from prefillshare.routing.web.keys import GATEWAY, account_of
from prefillshare.routing.workers.answer import check_json
from prefillshare.tenants.confine import check_module
from prefillshare.wire.errors import openai_error

_TIMEOUT_S = 60.0


def ask_a_worker(path: str) -> Handler:
    """Return the handler of `path`: a prefill worker answers, asked for the prefill module."""

    async def handle(request: web.Request) -> web.Response:
        parts = request.app[GATEWAY].parts
        account, names = account_of(request), parts.names()
        names = names if account is None else names.only(account.allows)
        body = replace_aliases(read_object(await read_json_body(request, parts.settings.router)), names, Asked())
        if account is not None:
            check_module(body, account, None, parts.settings.base_model)
        _check_model(parts, body)
        asked = write_object({**body, "model": parts.settings.base_model})
        status, content = await ask_prefill_workers(
            parts, path, _take, method="POST", body=asked, timeout_s=_TIMEOUT_S, why="tokenize"
        )
        content = openai_error(content, status) if status >= 400 else content
        return web.Response(body=content, status=status, content_type="application/json")

    return handle


def _check_model(parts: Parts, body: Body) -> None:
    """Raises: BadCallError, UnknownModelError."""
    model, base = body.get("model"), parts.settings.base_model
    if model is None:
        return
    if not isinstance(model, str):
        raise BadCallError(f"model is {short_repr(model)}: it must be the name of a module", param="model")
    names = (base, *parts.pool.modules(), *parts.aliases)
    if model.removeprefix(f"{base}:") not in names:
        raise UnknownModelError(
            f"model {short_repr(model)} does not exist; this deployment has: {', '.join(names)}", param="model"
        )


def _take(status: int, content: bytes) -> tuple[int, bytes]:
    if status == 200:
        check_json(content)
    return status, content
