"""From a client's call to what SGLang answers, and from its answer to the client's.

SGLang sees every call as the first of its conversation, and remembers nothing: the items of what went before come with
the call. Its answer gets the members that only the one who remembers can fill in, and is kept.
"""

import time
from collections.abc import Mapping
from typing import Any

import orjson

from prefillshare.errors import AnswerError, short_repr
from prefillshare.responses.errors import ResponsesError
from prefillshare.responses.forms import as_told, simplify_item
from prefillshare.responses.ids import conversation_name, make_id, read_tag
from prefillshare.responses.store import ResponseStore

_FINAL_EVENTS = (b"event: response.completed\n", b"event: response.incomplete\n", b"event: response.failed\n")
_EVENTS_WITH_RESPONSE = (b"event: response.created\n", b"event: response.in_progress\n", *_FINAL_EVENTS)
_END = b"\n\n"
_KEPT_ELSEWHERE = {
    "conversation": "go on with previous_response_id, or send the whole conversation as input",
    "prompt": "send its text as instructions or input",
}
"""Members that name objects of OpenAI's service, and what to send instead."""
_LOGPROBS = "message.output_text.logprobs"


class Exchange:
    """One call of `/v1/responses`."""

    def __init__(
        self,
        body: Mapping[str, Any],
        store: ResponseStore,
        response_id: str | None = None,
        owner: str = "",
        *,
        is_prefetch: bool = False,
    ) -> None:
        """Read `body`; the response gets `response_id` where one was given out already, and is the `owner`'s.

        What a call that only wants its prompt in the cache is answered is not kept.

        Raises: ResponsesError.
        """
        self._store = store
        _refuse_what_is_not_here(body)
        self.owner = owner
        self.previous_id = _read_previous_id(body)
        self.id = response_id or make_id(self.previous_id)
        self.is_kept = _read_flag(body, "store", default=True)
        self.is_background = _read_flag(body, "background", default=False)
        if is_prefetch:
            self.is_kept = False  # nobody goes on from an answer without tokens
            if self.is_background:
                raise ResponsesError(
                    "background is true with prefetch, whose answer is empty: leave one out", param="background"
                )
        if self.is_background and body.get("stream"):
            raise ResponsesError(
                "background is true with stream: leave one out, and ask for it by its id", param="background"
            )
        if self.is_background and not self.is_kept:
            raise ResponsesError(
                "background is true with store false, and nobody could ask for it: leave one out", param="store"
            )
        self.items = [*self._history(), *_read_items(body.get("input"))]
        self.body = self._make_body(body)
        """What SGLang is asked."""
        self._buffer = b""

    def finish(self, response: dict[str, Any]) -> dict[str, Any]:
        """Return the client's response object of SGLang's, and keep it if that is wanted.

        Raises: AnswerError.
        """
        told = self._fill_in(response)
        if self.is_kept and told.get("status") in ("completed", "incomplete"):
            self._store.put(self.id, told, self.items, self.owner)
        return told

    def announce(self, status: str, *, error: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the response object before there is an answer, or instead of one, and keep it."""
        begun: dict[str, Any] = {
            "object": "response",
            "created_at": int(time.time()),
            "model": self.body.get("model"),
            "output": [],
        }
        told = self._fill_in(begun)
        told |= {"status": status, "error": error}
        self._store.put(self.id, told, self.items, self.owner)
        return told

    def pass_on(self, piece: bytes) -> bytes:
        """Return what the client is sent of a stream when `piece` has come: whole events; with the last it is kept.

        Raises: AnswerError.
        """
        events = (self._buffer + piece).split(_END)
        self._buffer = events.pop()
        return b"".join(self._rewrite(event) + _END for event in events)

    def _history(self) -> list[Any]:
        if self.previous_id is None:
            return []
        kept = self._store.get(self.previous_id, self.owner)
        if kept is None:
            raise unknown_response(self.previous_id, param="previous_response_id")
        before = orjson.loads(kept.response)
        if before.get("status") not in ("completed", "incomplete"):
            state = f"response {self.previous_id!r} is {before.get('status')}"
            raise ResponsesError(f"{state}: go on from one that is completed", param="previous_response_id")
        return [*orjson.loads(kept.items), *before["output"]]

    def _make_body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        given = body.get("input")
        if isinstance(given, list) or (self.previous_id and isinstance(given, str)):
            given = [simplify_item(item) for item in self.items]
        left_out = ("previous_response_id", "background", "store", "request_id")
        made = {name: value for name, value in body.items() if name not in left_out}
        # What is no input at all is SGLang's to refuse.
        made |= {"input": given, "store": False, "request_id": self.id}
        if not body.get("session_id") and not body.get("user"):
            made["session_id"] = conversation_name(self.id)
        return made

    def _fill_in(self, response: dict[str, Any]) -> dict[str, Any]:
        told = as_told(response)
        told |= {"id": self.id, "previous_response_id": self.previous_id, "store": self.is_kept}
        if self.body.get("text") is not None:
            told["text"] = self.body["text"]
        return told

    def _rewrite(self, event: bytes) -> bytes:
        if not event.startswith(_EVENTS_WITH_RESPONSE):
            return event
        head, _, data = event.partition(b"\ndata: ")
        value, response = _read_event(data)
        is_final = event.startswith(_FINAL_EVENTS)
        value["response"] = self.finish(response) if is_final else self._fill_in(response)
        if is_final and value["response"].get("status") == "incomplete":
            head, value["type"] = b"event: response.incomplete", "response.incomplete"
        return head + b"\ndata: " + orjson.dumps(value)


def unknown_response(response_id: object, *, param: str | None = None) -> ResponsesError:
    """Return the refusal of an id under which nothing is kept."""
    return ResponsesError(
        f"there is no response {short_repr(response_id)}: it was never kept, was deleted or is too old; send the whole "
        "conversation as input",
        status=404,
        param=param,
    )


def _read_event(data: bytes) -> tuple[dict[str, Any], Any]:
    """Return what an event tells, and the response in it.

    Raises: AnswerError.
    """
    try:
        value = orjson.loads(data)
        return value, value["response"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        raise AnswerError(f"sent an event without a response: {short_repr(data[:60])}") from None


def _refuse_what_is_not_here(body: Mapping[str, Any]) -> None:
    # SGLang leaves it out, and would answer as if nobody had asked for it.
    for name, instead in _KEPT_ELSEWHERE.items():
        if body.get(name) is not None:
            raise ResponsesError(f"{name} names what this server does not keep: {instead}", param=name)
    for tool in _read_list(body, "tools"):
        kind = tool.get("type", "function") if isinstance(tool, Mapping) else "function"
        if kind != "function":
            raise ResponsesError(
                f"tools has one of type {short_repr(kind)}, and this server runs none itself: give functions, or leave "
                "it out",
                param="tools",
            )
    if body.get("top_logprobs") or _LOGPROBS in _read_list(body, "include"):
        raise ResponsesError(
            "a response has no log-probabilities here: ask /v1/chat/completions for them, or leave them out",
            param="top_logprobs" if body.get("top_logprobs") else "include",
        )


def _read_list(body: Mapping[str, Any], name: str) -> list[Any]:
    given = body.get(name)
    return given if isinstance(given, list) else []


def _read_previous_id(body: Mapping[str, Any]) -> str | None:
    given = body.get("previous_response_id")
    if given is None:
        return None
    if not isinstance(given, str):
        name = "previous_response_id"
        raise ResponsesError(f"{name} is {short_repr(given)}: give the id of a response", param=name)
    if read_tag(given) is None:
        raise unknown_response(given, param="previous_response_id")
    return given


def _read_items(given: object) -> list[Any]:
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return given if isinstance(given, list) else []


def _read_flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ResponsesError(f"{name} is {short_repr(value)}: it must be true or false", param=name)
    return value
