"""What a worker answered, read from HTTP; an error that begins a stream is an error."""

from dataclasses import dataclass
from typing import Any

import orjson

from prefillshare.contract import REPORT_HEADER
from prefillshare.errors import AnswerError, short_repr
from prefillshare.routing.http.reply import Reply
from prefillshare.wire.bodies import read_stream_error
from prefillshare.wire.errors import openai_error

_REPORT = REPORT_HEADER.lower().encode()
_BEGINNING_BYTES = 60
_JSON_BEGINNINGS = (b"{", b"[")


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a worker answered: all of it, or the beginning of a stream."""

    status: int
    """HTTP status."""
    content_type: str
    """Content-Type header."""
    content: bytes
    """The body, or the first piece of it."""
    report: str | None = None
    """What a prefill worker reports beside an answer that has no place for it; an engine, beside every answer."""
    rest: Reply | None = None
    """Where the further pieces come from; whoever holds the answer closes it."""
    told: Any = None
    """What the router has read of it, where its leg says what that is."""

    @property
    def body(self) -> bytes:
        """What the client is sent: an error in OpenAI's form, whatever the worker's was."""
        return self.content if self.status < 400 else openai_error(self.content, self.status)

    @property
    def is_refusal(self) -> bool:
        """Whether the worker found the call itself at fault."""
        return 400 <= self.status < 500


async def read_answer(reply: Reply, *, is_stream: bool) -> Answer:
    """Return the answer in `reply`; of a stream, once its first piece is there.

    Raises: BrokenOffError.
    """
    if not is_stream:
        content = await reply.read()
        report = reply.find_header(_REPORT)
        return Answer(status=reply.status, content_type=reply.content_type, content=content, report=report)
    first = await reply.read_piece()
    if reply.status != 200:
        return Answer(status=reply.status, content_type=reply.content_type, content=first + await reply.read())
    if error := read_stream_error(first):
        reply.close()
        return Answer(status=error.status, content_type="application/json", content=error.body)
    report = reply.find_header(_REPORT)
    return Answer(status=200, content_type=reply.content_type, content=first, report=report, rest=reply)


def check_json(content: bytes) -> None:
    """Look whether an answer that is passed on can be JSON: what stands before a worker may answer in its place.

    Raises: AnswerError.
    """
    if not content[:_BEGINNING_BYTES].lstrip().startswith(_JSON_BEGINNINGS):
        raise _no_json(content)


def read_json(content: bytes) -> Any:
    """Return the object, or the list, that an answer is.

    Raises: AnswerError.
    """
    check_json(content)
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise _no_json(content) from None


def read_object(content: bytes) -> dict[str, Any]:
    """Return the object that an answer is.

    Raises: AnswerError.
    """
    found = read_json(content)
    if not isinstance(found, dict):
        raise AnswerError(f"answered with what is no JSON object: {short_repr(content[:_BEGINNING_BYTES])}")
    return found


def _no_json(content: bytes) -> AnswerError:
    return AnswerError(f"answered with what is no JSON: {short_repr(content[:_BEGINNING_BYTES])}")
