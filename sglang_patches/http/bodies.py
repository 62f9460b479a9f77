"""What callers get wrong about HTTP and JSON is answered with status 4xx and a reason, before anything works on it.

A middleware of the engine's HTTP server, put in place by :mod:`sglang_patches.patches.http_server`. SGLang reads a
body of any size, answers a compressed one with what its parser makes of the bytes, recurses into nested ones, and
answers with status 500 when its models stumble over a value of an unexpected kind, or when a check of ours refuses a
call of an interface that expects none. A stream begins with status 200 before its call is looked at, so its begin is
held back until its first part that says more is there. What SGLang's models of a body drop stays with the request
(:mod:`sglang_patches.http.request_state`). Null members are left out (:mod:`sglang_patches.http.null_members`). Paths
of other kinds of models, and those of tools that would end this engine, are 404.
"""

from __future__ import annotations

import asyncio
import json
import traceback
from typing import Any

from prefillshare.contract import CHOICE_HEADER, MESSAGES_PATH, REPORT_HEADER
from prefillshare.naming.asked import describe_probabilities
from prefillshare.tenants.confine import check_module, confine, join_namespace
from prefillshare.tenants.doors import addressed_module, is_call
from prefillshare.tenants.errors import TenantError
from prefillshare.wire.bodies import is_uncompressed, is_utf_8, read_stream_error
from prefillshare.wire.errors import error_object
from prefillshare.wire.from_router import MEMBER
from prefillshare.wire.hints import HINT_MEMBERS, may_have_hints, read_pin_s, read_prefetch
from prefillshare.wire.namespace import cache_namespace
from prefillshare.wire.text import as_json
from sglang_patches.answers.schemas import MAX_DEPTH, depth
from sglang_patches.choosing.asking import AnsweredError, Chooser, asked_by_router
from sglang_patches.choosing.requests import CHOSEN
from sglang_patches.disaggregation.role import is_behind_router, is_prefill_worker
from sglang_patches.http.asgi import Message, Receive, Send, read_header, replay
from sglang_patches.http.model_names import (
    UPSTREAM_DEFAULT_MODEL,
    aliases_of,
    get_tokenizer_manager,
    module_names,
    served_names,
)
from sglang_patches.http.null_members import drop_nulls
from sglang_patches.http.prefetches import OF_AN_ANSWER
from sglang_patches.http.request_state import FAILURE, NAMESPACE, PIN, PREFETCH, REPORT, SCHEMA, TENANT

MAX_BODY_BYTES = 32 << 20
BODY_SECONDS = 120

_JSON = b"application/json"

_WRITES_TEXT = "the models of this server write text, and give no embeddings, scores or classes"
_NO_RECORDER = "this engine has no recorder of experts"
_CLOSED = {
    **dict.fromkeys(("/v1/embeddings", "/v1/rerank", "/v1/classify", "/encode", "/classify"), _WRITES_TEXT),
    **dict.fromkeys((f"/{verb}_expert_distribution_record" for verb in ("start", "stop", "dump")), _NO_RECORDER),
    "/v1/audio/transcriptions": "the models of this server read text only",
}

_FILLED_IN = ("/v1/chat/completions", "/v1/completions")
"""Where SGLang fills in a model."""

_BEGINS = (b"event: message_start\n", b"event: response.created\n", b"event: response.in_progress\n")
"""First events of the streams of Anthropic's messages and of OpenAI's responses."""


class RefusedBodyError(Exception):
    """What is wrong with a body, and the status to answer with."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class CheckBodies:
    """ASGI middleware: hands a checked body on in one piece."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._chooser = Chooser(app, _prepare)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = HeldStart(send, scope)
        try:
            _check_path(scope)
            if scope["method"] in ("POST", "PUT"):
                _check_headers(scope)
                body = await _read_in_time(receive)
                if body is None:
                    return
                _check_tenants_body(body, scope)
                body = await self._read_body(body, scope, receive, held.send)
                # What comes after the body (the caller goes away) must still reach SGLang, which aborts then.
                receive = replay(body, receive)
            await self._app(scope, receive, held.send)
        except AnsweredError:
            return
        except Exception as error:
            refusal = _as_refusal(error)
            # Once a part is on its way, its status is too, and the connection can only be cut.
            if refusal is None or not held.is_unsent:
                raise
            await _refuse(refusal, scope, receive, send)

    async def _read_body(self, body: bytes, scope: Message, receive: Receive, send: Send) -> bytes:
        """The body as it is to be read.

        Raises: RefusedBodyError, TenantError, ValueError; AnsweredError when the call has its answer already.
        """
        value = _read_object(body, scope)
        if value is None:
            return body
        if (choice_id := asked_by_router(value)) is not None and is_prefill_worker():
            await self._chooser.answer_router(value, choice_id, scope, receive, send)
            raise AnsweredError
        # First: a tenant may have the module that an alias means, or not.
        named = await self._chooser.name_modules(value, scope, receive, send)
        _check_tenants_module(named, scope)
        return _prepare(named, scope, body if named is value else None)


class HeldStart:
    """Sends the begin of an answer with its first part, so that a refusal may still take its place."""

    def __init__(self, send: Send, scope: Message) -> None:
        self._send = send
        self._scope = scope
        self._held: list[Message] = []
        self.is_unsent = True

    async def send(self, message: Message) -> None:
        """Send, or hold back."""
        if self.is_unsent and (message["type"] == "http.response.start" or _is_only_a_begin(message)):
            self._held.append(message)
            return
        if self.is_unsent and self._held:
            self._raise_failure(message)
            _raise_error_event(self._held[0], message)
            self._add_headers(self._held[0])
            for held in self._held:
                await self._send(held)
        self.is_unsent = False
        await self._send(message)

    def _raise_failure(self, message: Message) -> None:
        reason = self._scope.get("state", {}).get(FAILURE)
        if reason is not None and message.get("body", b"").startswith(b"event: response.failed\n"):
            raise RefusedBodyError(400, reason)

    def _add_headers(self, start: Message) -> None:
        state = self._scope.get("state", {})
        told = {}
        if (report := state.get(REPORT)) is not None:
            told[REPORT_HEADER] = as_json(report)
        if (choice := state.get(CHOSEN)) is not None:
            told[CHOICE_HEADER] = describe_probabilities(choice.probabilities).encode()
        if told:
            start["headers"] = [*start["headers"], *((name.lower().encode(), value) for name, value in told.items())]


def _is_only_a_begin(message: Message) -> bool:
    """Whether a stream says no more than that it begins, which it does before an error, too."""
    return bool(message.get("body", b"").startswith(_BEGINS) and message.get("more_body"))


def _raise_error_event(start: Message, message: Message) -> None:
    """A stream whose first event is an error has nothing else to say."""
    error = read_stream_error(message.get("body", b"")) if start["status"] == 200 else None
    if error is not None and error.status < 500:
        raise RefusedBodyError(error.status, error.message)


def _as_refusal(error: Exception) -> RefusedBodyError | None:
    """What to answer if the caller is to blame: our checks raise ValueError, as SGLang's do."""
    if isinstance(error, RefusedBodyError):
        return error
    if isinstance(error, TenantError):
        return RefusedBodyError(error.status, str(error), param=error.param, code=error.code)
    if isinstance(error, ValueError):
        return RefusedBodyError(400, str(error))
    if _is_from_reading(error):
        return RefusedBodyError(400, f"the body is not what this path takes ({type(error).__name__}: {error})")
    return None


def _check_path(scope: Message) -> None:
    reason = _CLOSED.get(scope["path"].rstrip("/"))
    if reason:
        raise RefusedBodyError(404, f"{scope['path']} is not here: {reason}")


def _check_headers(scope: Message) -> None:
    encoding = read_header(scope, b"content-encoding").strip().lower()
    if not is_uncompressed(encoding):
        raise RefusedBodyError(415, f"Content-Encoding is {encoding!r}: send the body as it is, without compression")
    charset = read_header(scope, b"content-type").lower().partition("charset=")[2].split(";")[0].strip(" \"'")
    if not is_utf_8(charset):
        raise RefusedBodyError(415, f"the charset is {charset!r}: send JSON in UTF-8")


async def _read_in_time(receive: Receive) -> bytes | None:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read(receive)
    except TimeoutError:
        raise RefusedBodyError(408, f"the body did not arrive within {BODY_SECONDS} s: send it at once") from None


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when the caller went away."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise RefusedBodyError(413, f"the body has more than {MAX_BODY_BYTES >> 20} MiB: send less")
        if not message.get("more_body", False):
            return b"".join(parts)


def _read_object(body: bytes, scope: Message) -> dict[str, Any] | None:
    """The object in a body; None for what is read by whoever it is for."""
    if not body or _JSON not in read_header(scope, b"content-type").lower().encode():
        return None
    import orjson

    try:
        body.decode()
        value = orjson.loads(body)
    except UnicodeDecodeError as error:
        raise RefusedBodyError(400, f"the body is not UTF-8 (byte {error.start}): encode it so") from None
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Recursion limit"):
            raise RefusedBodyError(400, _TOO_DEEP) from None
        if TENANT in scope.get("state", {}):
            # Whose call it is must be written into it.
            raise RefusedBodyError(400, f"the body is not JSON ({error}): send a JSON object") from None
        # Python's parser takes numbers that JSON does not have (NaN, Infinity); what becomes of them is said there.
        return None
    if depth(value) > MAX_DEPTH:
        raise RefusedBodyError(400, _TOO_DEEP)
    if isinstance(value, dict):
        _check_members(value)
        _check_model(value, scope)
        return value
    if value is not None or scope["path"].startswith("/v1/"):
        raise RefusedBodyError(400, f"the body is {str(value)[:40]}: give a JSON object")
    return None


def _prepare(value: dict[str, Any], scope: Message, raw: bytes | None = None) -> bytes:
    """What SGLang reads of a call; the rest stays with the request. ``raw`` is its body, if ``value`` is all of it."""
    import orjson

    confined = _confine(value, scope)
    confined = _note_hints(confined, scope, raw)
    _note_namespace(confined, scope)
    _note_schema(value, scope)
    # Written anew only where something was left out: parsing a long prompt twice is enough.
    kept = drop_nulls(_take_member(confined, scope), scope["path"])
    return raw if raw is not None and kept is value else orjson.dumps(kept)


def _check_tenants_body(body: bytes, scope: Message) -> None:
    """What is not read here would go further as if it were nobody's."""
    if body and TENANT in scope.get("state", {}) and _JSON.decode() not in read_header(scope, b"content-type").lower():
        raise RefusedBodyError(415, "the body is not declared as JSON: send the header Content-Type: application/json")


def _check_tenants_module(value: dict[str, Any], scope: Message) -> None:
    """Raise TenantError for a tenant's call of a module that is not the tenant's."""
    account = scope.get("state", {}).get(TENANT)
    if account is None:
        return
    path = scope["path"]
    base, _ = served_names(get_tokenizer_manager())
    # SGLang's own interface answers with the prefill module where nothing is named.
    otherwise = base if path == "/generate" else addressed_module(path)
    # Of an alias in the address, what it means stands in the body by now.
    named = None if otherwise in aliases_of(get_tokenizer_manager()) else otherwise
    check_module(value, account, named, base)


def _confine(value: dict[str, Any], scope: Message) -> dict[str, Any]:
    """A tenant's call in the tenant's namespace, any other in its own.

    Raises: ConfinedError.
    """
    account, path = scope.get("state", {}).get(TENANT), scope["path"]
    if account is not None and is_call(path):
        return confine(value, account)
    if path.endswith("/generate") and value.get("cache_salt") is not None:  # which SGLang leaves unread there
        return join_namespace(value)
    return value


def _note_hints(value: dict[str, Any], scope: Message, raw: bytes | None) -> dict[str, Any]:
    """The body without hints that SGLang's models know nothing of; what they say stays with the request."""
    if (raw is not None and not may_have_hints(raw)) or not is_call(scope["path"]):
        return value
    if (pin_s := read_pin_s(value)) > 0:
        scope.setdefault("state", {})[PIN] = pin_s
    dropped = frozenset(HINT_MEMBERS)
    if read_prefetch(value):
        scope.setdefault("state", {})[PREFETCH] = True
        dropped |= OF_AN_ANSWER
    if value.keys().isdisjoint(dropped):
        return value
    return {name: member for name, member in value.items() if name not in dropped}


def _take_member(value: dict[str, Any], scope: Message) -> dict[str, Any]:
    """The body without what the router says beside it, which the request keeps."""
    if MEMBER not in value:
        return value
    told = value[MEMBER]
    if not isinstance(told, dict) or not is_behind_router():
        raise RefusedBodyError(400, f"{MEMBER} is for a router and its workers: leave it out")
    scope.setdefault("state", {})[MEMBER] = told
    return {name: member for name, member in value.items() if name != MEMBER}


def _note_namespace(value: dict[str, Any], scope: Message) -> None:
    """Anthropic's interface has no member for what is to be kept apart; ours is OpenAI's."""
    if scope["path"] != MESSAGES_PATH:
        return
    keys = {name: value.get(name) for name in ("cache_salt", "extra_key")}
    for name, key in keys.items():
        if key is not None and not isinstance(key, str):
            raise RefusedBodyError(400, f"{name} is {str(key)[:40]}: give a text")
    scope.setdefault("state", {})[NAMESPACE] = cache_namespace(**keys)


def _check_members(value: dict[str, Any]) -> None:
    for name in ("messages", "input"):
        if value.get(name) == []:
            raise RefusedBodyError(400, f"{name} is empty: give at least one")
    for name in ("response_format", "stream_options"):
        if not isinstance(given := value.get(name), dict | None):
            raise RefusedBodyError(400, f"{name} is {str(given)[:40]!r}: give an object")


def _check_model(value: dict[str, Any], scope: Message) -> None:
    """SGLang gives a call that names no model a name that some module may have."""
    if scope["path"] in _FILLED_IN and value.get("model") is None:
        names = module_names(get_tokenizer_manager())
        if names.is_taken(UPSTREAM_DEFAULT_MODEL):
            raise RefusedBodyError(
                400, f"model is missing: name one; this server has: {names.describe()}", param="model"
            )


def _note_schema(value: dict[str, Any], scope: Message) -> None:
    """SGLang's responses know no formats of the answer."""
    text = value.get("text")
    if scope["path"] != "/v1/responses" or text is None:
        return
    if not isinstance(text, dict) or not isinstance(format_ := text.get("format") or {}, dict):
        raise RefusedBodyError(400, f"text is {str(text)[:60]}: give an object with format, an object too")
    kind = format_.get("type", "text")
    if kind not in ("text", "json_object", "json_schema"):
        raise RefusedBodyError(400, f"text.format.type is {str(kind)[:40]!r}: give text, json_object or json_schema")
    schema = format_.get("schema") if kind == "json_schema" else {"type": "object"}
    if not isinstance(schema, dict):
        raise RefusedBodyError(400, f"text.format.schema is {str(schema)[:40]}: give a JSON schema")
    if kind != "text":
        scope.setdefault("state", {})[SCHEMA] = json.dumps(schema)


_TOO_DEEP = f"the body is nested more than {MAX_DEPTH} levels deep: make it flatter"


def _is_from_reading(error: Exception) -> bool:
    """Whether a body was being turned into a request, so that no answer has begun."""
    return any(frame.f_code.co_name == "request_body_to_args" for frame, _ in traceback.walk_tb(error.__traceback__))


async def _refuse(refusal: RefusedBodyError, scope: Message, receive: Any, send: Any) -> None:
    from fastapi.responses import ORJSONResponse

    # Anthropic's clients get their form of it from ``http/errors``.
    error = error_object(str(refusal), kind="invalid_request_error", param=refusal.param, code=refusal.code)
    # The rest of the body is not read, so the connection cannot serve another call.
    headers = {"Connection": "close"} if refusal.status in (408, 413) else None
    response = ORJSONResponse({"error": error}, status_code=refusal.status, headers=headers)
    await response(scope, receive, send)
