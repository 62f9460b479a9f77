"""Tenants of an engine: who may call is seen before anything reads the call.

Target: none; ``http_routes`` puts it around SGLang's application when the server state is set, where the deployment has
    a ``[tenants]`` table. Workers of a pair know no tenants: their router does.
Why: SGLang knows one key for all, and what a call says of its namespace is the caller's word.
How: an ASGI application around SGLang's own, inside of ``http/errors``. The operator's keys pass as they are. A
    tenant's key opens the doors of calls only, within the tenant's limits; it goes no further: SGLang sees the engine's
    own key in its place. The request keeps the tenant, for ``http/bodies`` (namespace, module), ``http/responses``
    (whose they are) and ``observed/requests`` (sessions, tokens).
Upstream: sglang/srt/utils/auth.py:61 at 0.5.17.
Remove when: upstream has keys with names, limits and namespaces.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.contract import TENANTS_VARIABLE
from prefillshare.tenants.doors import check_door, is_costly
from prefillshare.tenants.errors import TenantError
from prefillshare.tenants.roster import Roster
from prefillshare.wire.errors import ErrorObject, error_object
from prefillshare.wire.text import as_json
from sglang_patches.http.keys import read_key, with_key
from sglang_patches.http.model_names import get_tokenizer_manager, module_names
from sglang_patches.http.request_state import TENANT

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

    from prefillshare.tenants.account import Account

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_NO_KEY = "this needs a key, and none or an unknown one came: send it as Authorization: Bearer KEY"
_POLICY_VIOLATION = 1008
_OVERRIDES = b"x-override-"
"""Begin of headers that take the place of members such as the request's id, where SGLang is told to hear them."""


def read_roster() -> Roster | None:
    """The tenants of this engine; None where it knows none."""
    given = os.getenv(TENANTS_VARIABLE)
    return Roster(Path(given)) if given else None


def wrap_application(app: Any, roster: Roster, server_args: ServerArgs) -> None:
    """Let `app` answer the operator and tenants, and nobody else; nothing may have been asked yet."""
    original = app.build_middleware_stack
    app.build_middleware_stack = lambda: TenantDoor(original(), roster, server_args)


class TenantDoor:
    """An ASGI application around another one."""

    def __init__(self, app: Application, roster: Roster, server_args: ServerArgs) -> None:
        self._app = app
        self._roster = roster
        self._own_key: str = server_args.api_key
        self._operators = [key.encode() for key in (server_args.api_key, server_args.admin_api_key) if key]
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._roster.keep_looking())
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket" and not self._is_operators(read_key(scope["headers"])):
            # SGLang lets everybody in there.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "this needs a key"})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = read_key(scope["headers"])
        # Probes ask how it is, and browsers whether they may ask, before anybody has a key.
        if scope["path"].startswith("/health") or scope["method"] == "OPTIONS" or self._is_operators(key):
            await self._app(scope, receive, send)
        elif (account := self._roster.find(key)) is None:
            self._roster.num_unknown_keys += 1
            error = error_object(_NO_KEY, kind="authentication_error", code="invalid_api_key")
            await _refuse(send, 401, error, {})
        else:
            await self._answer_tenant(account, scope, receive, send)

    async def _answer_tenant(self, account: Account, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_door(account, scope["method"], scope["path"], lambda: module_names(get_tokenizer_manager()))
            with ExitStack() as running:
                if is_costly(scope["method"], scope["path"]):
                    running.enter_context(account.calling())
                await self._app(self._as_own(scope, account), receive, _end_with_answer(send, running.close))
        except TenantError as error:
            told = error_object(str(error), kind=error.kind, param=error.param, code=error.code)
            await _refuse(send, error.status, told, error.headers)

    def _as_own(self, scope: Scope, account: Account) -> Scope:
        """The request as the rest of the engine sees it: the tenant's, with the engine's key."""
        kept = [pair for pair in scope["headers"] if not pair[0].startswith(_OVERRIDES)]
        headers = with_key(kept, self._own_key)
        return {**scope, "headers": headers, "state": {**scope.get("state", {}), TENANT: account}}

    def _is_operators(self, key: str) -> bool:
        given = key.encode(errors="surrogateescape")
        return any(hmac.compare_digest(given, known) for known in self._operators)


def _end_with_answer(send: Send, end: Callable[[], None]) -> Send:
    """Call ``end`` just before the last part of an answer is sent: its client may then call again."""

    # Not when the application returns: SGLang stays for 2 s more with every stream.
    async def send_part(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            end()
        await send(message)

    return send_part


async def _refuse(send: Send, status: int, error: ErrorObject, headers: dict[str, str]) -> None:
    body = as_json({"error": error})
    told = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *told]})
    await send({"type": "http.response.body", "body": body})
