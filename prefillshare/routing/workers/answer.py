"""What a worker answered: read from HTTP, and told apart from errors in whatever form SGLang sends them."""

from dataclasses import dataclass

import aiohttp
import orjson

from sglang_patches.error_shape import openai_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a worker answered: all of it, or the beginning of a stream."""

    status: int
    """HTTP status."""
    content_type: str
    """Content-Type header."""
    content: bytes
    """The body, or the first piece of it."""
    rest: aiohttp.ClientResponse | None = None
    """Where the further pieces come from; whoever holds the answer closes it."""

    @property
    def body(self) -> bytes:
        """What the client is sent: an error in OpenAI's form, whatever the worker's was."""
        return self.content if self.status < 400 else openai_error(self.content, self.status)

    @property
    def is_refusal(self) -> bool:
        """Whether the worker found the call itself at fault."""
        return 400 <= self.status < 500


async def read_answer(reply: aiohttp.ClientResponse, *, is_stream: bool) -> Answer:
    """Return the answer in `reply`; of a stream, once its first piece is there.

    Raises: aiohttp.ClientError, OSError.
    """
    content_type = reply.headers.get("Content-Type", "application/json")
    try:
        if not is_stream or reply.status != 200:
            return Answer(status=reply.status, content_type=content_type, content=await reply.read())
        first = await reply.content.readany()
    except BaseException:
        reply.close()  # the worker sees that nobody waits any more
        raise
    if error := _first_error(first):
        reply.close()
        return error
    return Answer(status=200, content_type=content_type, content=first, rest=reply)


def _first_error(first: bytes) -> Answer | None:
    """Return the error with which a stream begins: SGLang has sent the status 200 by then."""
    if not first.startswith(b'data: {"error"'):
        return None
    line = first.split(b"\n", 1)[0].removeprefix(b"data: ")
    try:
        error = orjson.loads(line)["error"]
        status = int(error["code"])
    except (ValueError, TypeError, KeyError):
        return None
    status = status if 400 <= status < 600 else 500
    return Answer(status=status, content_type="application/json", content=line)


def error_text(content: bytes) -> str:
    """Return the message of an error answer, whatever its form, shortened."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = content.decode(errors="replace")
    if isinstance(value, dict):
        inner = value.get("error", value)
        value = inner.get("message", inner) if isinstance(inner, dict) else inner
    text = str(value).strip() or "no reason given"
    return text if len(text) <= 500 else text[:497] + "..."
