"""Calls that only want their prompt in the cache (`kv_hints` with `prefetch`): the hint, and their answers.

A prefill worker answers alone, as it answers calls for no token, but in the form of the door that was asked, streamed
or not. It knows no module, so it is asked for the prefill module; the client is told the name of its own. An answer
without tokens is small: a stream of it is read whole before any of it is passed on.
"""

from typing import Any

import orjson

from prefillshare.errors import AnswerError, short_repr
from prefillshare.responses.forms import read_response
from prefillshare.routing.call.call import Body, Endpoint
from prefillshare.routing.errors import BadCallError
from prefillshare.routing.workers.answer import read_json
from prefillshare.wire.bodies import read_stream_error
from prefillshare.wire.hints import HintError, read_prefetch

_END = b"\n\n"
_DATA = b"data: "
_DONE = b"[DONE]"
_HOLDERS = ("response", "message")
"""Members of an event that hold the object with the model's name."""


def wants_prefetch(body: Body) -> bool:
    """Return whether a call only wants its prompt in the cache.

    Raises: BadCallError.
    """
    try:
        return read_prefetch(body)
    except HintError as error:
        raise BadCallError(str(error)) from None


def name_module(content: bytes, *, endpoint: Endpoint, module: str, is_stream: bool) -> bytes:
    """Return a prefill worker's answer at `endpoint` with `module` in the place of the prefill module.

    Raises: AnswerError.
    """
    if not is_stream:
        if endpoint == "/v1/responses":
            read_response(content)
        return orjson.dumps(_with_model(read_json(content), module))
    if (error := read_stream_error(content)) is not None:
        raise AnswerError(f"answered a stream with an error: {error.message}")
    events = content.split(_END)
    if len(events) == 1:
        raise AnswerError(f"answered with what is no stream: {short_repr(content[:60])}")
    return _END.join(_name_in_event(event, module) for event in events)


def _name_in_event(event: bytes, module: str) -> bytes:
    head, mark, data = event.partition(_DATA)
    if not mark or data.strip() == _DONE:
        return event
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise AnswerError(f"sent an event that is no JSON: {short_repr(data[:60])}") from None
    if isinstance(value, dict):
        value |= {name: _with_model(value[name], module) for name in _HOLDERS if name in value}
    return head + mark + orjson.dumps(_with_model(value, module))


def _with_model(value: Any, module: str) -> Any:
    return {**value, "model": module} if isinstance(value, dict) and "model" in value else value
