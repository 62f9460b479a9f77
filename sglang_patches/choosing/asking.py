"""The HTTP process asks its own engine what the prefill module makes of a call's prompt, and chooses by that.

:class:`Chooser` stands in the way of every body, in :mod:`sglang_patches.http.bodies`. Where an alias leaves its choice
to a classifier, the application gets the body once for the choice, with the prefill module in the alias's place, so
that the same code renders it, checks it and takes it apart; what it answers goes nowhere, unless it refuses the call.
Then the body goes on with the module that was chosen. A prefill worker is asked by its router in this way, and answers
with the states: the router chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from prefillshare.contract import SESSION_HEADER
from prefillshare.naming.asked import Asked, last_words
from prefillshare.naming.bodies import NAMING_MEMBERS, find_undecided, replace_aliases
from prefillshare.naming.names import Names
from prefillshare.tenants.doors import addressed_module, is_call
from prefillshare.wire.from_router import MEMBER
from prefillshare.wire.hidden_states import write_states
from prefillshare.wire.sessions import find_session
from prefillshare.wire.text import decode_header
from sglang_patches.choosing.requests import CHOICE, CHOSEN, Choice
from sglang_patches.http.asgi import KeptAnswer, Message, Receive, Send, read_header, replay
from sglang_patches.http.model_names import aliases_of, get_tokenizer_manager, module_names
from sglang_patches.http.request_state import PIN, TENANT
from sglang_patches.http.responses import PATH as RESPONSES_PATH

if TYPE_CHECKING:
    from prefillshare.tenants.account import Account
    from sglang_patches.engine.tokenizer_manager import TokenizerManager

Body = dict[str, Any]
Prepare = Callable[[Body, Message], bytes]
"""Makes of a body what the application reads; what it notes of it stands in the scope's state."""

_OF_SESSIONS = "session_params"
_OF_THE_ANSWER = ("stream_options", "background")
_NATIVE_PATH = "/generate"


class AnsweredError(Exception):
    """The call has its answer already: that of its choice."""


class Chooser:
    """Finds the module for each call whose alias leaves that to a classifier."""

    def __init__(self, app: Any, prepare: Prepare) -> None:
        self._app = app
        self._prepare = prepare

    async def name_modules(self, body: Body, scope: Message, receive: Receive, send: Send) -> Body:
        """The body with modules in the place of aliases, of that in the address, too.

        Raises: AnsweredError when the application has refused the call's choice; that is sent.
        """
        manager = get_tokenizer_manager()
        if not aliases_of(manager):
            return body
        account: Account | None = scope.get("state", {}).get(TENANT)
        names, asked = module_names(manager), _read_asked(body, scope, account)
        if account is not None:
            # An alias that may mean what is not the tenant's is no name that it knows.
            names = names.only(account.allows)
        named = _with_addressed(body, scope, names)
        if not is_call(scope["path"]) or find_undecided(named, names, asked) is None:
            return replace_aliases(named, names, asked)
        _refuse_sessions(named)
        started = time.monotonic()
        choice, kept = await self._ask(_as_question(named, names.base, scope), scope, receive, Choice())
        if not choice.states:
            await kept.pass_on(send)
            raise AnsweredError
        manager.observer.choices.note_time(time.monotonic() - started)
        seen = replace(asked, states=choice.states, classify=choice.ask)
        decided = replace_aliases(named, names, seen)
        _count(manager, named, decided, names, asked)
        scope.setdefault("state", {})[CHOSEN] = choice
        return decided

    async def answer_router(self, body: Body, choice_id: str, scope: Message, receive: Receive, send: Send) -> None:
        """Send a router the hidden states of the prompts of a call, or why there are none."""
        choice, kept = await self._ask(body, scope, receive, Choice(choice_id))
        if not choice.states:
            await kept.pass_on(send)
            return
        answer = write_states(choice.states, choice.infos)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _ask(self, body: Body, scope: Message, receive: Receive, choice: Choice) -> tuple[Choice, KeptAnswer]:
        """Let the application compute the prompts; what it notes in the scope is not the call's."""
        own: Message = {**scope, "state": {**scope.get("state", {}), CHOICE: choice}}
        if addressed_module(scope["path"]) is not None:
            own |= {"path": _NATIVE_PATH, "raw_path": _NATIVE_PATH.encode()}
        kept = KeptAnswer()
        prepared = self._prepare(body, own)
        # The call itself is what its caller wants to have kept.
        own["state"].pop(PIN, None)
        await self._app(own, replay(prepared, receive), kept.send)
        return choice, kept


def _read_asked(body: Body, scope: Message, account: Account | None) -> Asked:
    header = partial(_decode_header, scope)
    session = find_session(header(SESSION_HEADER), body, None if account is None else account.session_name)
    return Asked(session=session, says=partial(last_words, body), header=header)


def _decode_header(scope: Message, name: str) -> str | None:
    header = read_header(scope, name.lower().encode())
    return decode_header(header.encode("latin-1")) if header else None


def _with_addressed(body: Body, scope: Message, names: Names) -> Body:
    """The body with the module of its address, where that decides and is an alias."""
    addressed = addressed_module(scope["path"])
    decides = addressed is not None and body.get("lora_path") is None and addressed in names.aliases
    return {**body, "lora_path": addressed} if decides else body


def _as_question(body: Body, base: str, scope: Message) -> Body:
    """What is asked of the prefill module in the place of the call: nothing is streamed, or remembered."""
    question = {name: value for name, value in body.items() if name not in (*NAMING_MEMBERS, *_OF_THE_ANSWER)}
    question |= {"stream": False} | ({"model": base} if "model" in body else {})
    return question | ({"store": False} if scope["path"] == RESPONSES_PATH else {})


def _refuse_sessions(body: Body) -> None:
    """Raises: ValueError, which is answered with status 400."""
    if body.get(_OF_SESSIONS) is not None:
        raise ValueError(
            f"{_OF_SESSIONS} stands beside a model that a classifier chooses, which must see the whole prompt: name a "
            "module, or send the whole conversation"
        )


def _count(manager: TokenizerManager, body: Body, decided: Body, names: Names, asked: Asked) -> None:
    for member in NAMING_MEMBERS:
        given, meant = body.get(member), decided.get(member)
        pairs = (
            zip(given, meant, strict=True) if isinstance(given, list) and isinstance(meant, list) else [(given, meant)]
        )
        for name, module in pairs:
            alias = names.find_undecided(replace(asked, name=name)) if isinstance(name, str) else None
            if alias is not None and isinstance(module, str):
                manager.observer.choices.note(alias, module)


def asked_by_router(body: Body) -> str | None:
    """Id of the choice that a router wants of this body; None where it wants none."""
    told = body.get(MEMBER)
    choice_id = told.get("choice") if isinstance(told, dict) else None
    return choice_id if isinstance(choice_id, str) else None
