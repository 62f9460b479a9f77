"""A small client for a running deployment's OpenAI endpoint, for `ask` and `chat`."""

import json
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypedDict

import httpx

from prefillshare.direct import direct_client, parse_server, read_lines
from prefillshare.errors import ServerError, short_repr
from prefillshare.serving.silence import nobody_answers

DEFAULT_URL = "http://127.0.0.1:30000"
_CONNECT_TIMEOUT_S = 5.0


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer."""

    prompt_tokens: int
    """Tokens of the prompt."""
    cached_tokens: int
    """Prompt tokens whose KV was already there, whichever module's call had it made."""
    generated_tokens: int
    """Tokens of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Part of a streamed answer: text, or at the end the usage."""

    text: str = ""
    """Text to append."""
    usage: Usage | None = None
    """Set on the last piece."""


class Client:
    """Calls one server; use it as a context manager.

    Raises: ServerError from every method when the server cannot be reached or refuses the request.
    """

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None) -> None:
        self.url = _clean_url(url)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        self._http = direct_client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def models(self) -> list[str]:
        """Return the names that the server answers to: decode modules as the file has them, the base last."""
        try:
            reply = self._http.get("/v1/models")
        except httpx.TransportError as error:
            raise self._explain_silence(error) from None
        self._raise_for_status(reply)
        try:
            entries = reply.json()["data"]
            return [entry["id"] for entry in sorted(entries, key=lambda entry: not entry.get("parent"))]
        except (ValueError, KeyError, TypeError):
            raise ServerError(f"{self.url} is not a PrefillShare server: correct --url") from None

    def chat(
        self, model: str, messages: Sequence[Message], *, max_tokens: int | None, temperature: float
    ) -> Generator[Piece, None, None]:
        """Yield the answer of `model` as it is made, then its usage; closing the iterator ends the generation."""
        body: dict[str, Any] = {
            "model": model,
            "messages": list(messages),
            "temperature": temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
                if reply.status_code != 200:
                    reply.read()
                self._raise_for_status(reply)
                yield from self._read_pieces(read_lines(reply))
        except httpx.ConnectError as error:
            raise self._explain_silence(error) from None
        except httpx.TransportError:
            raise ServerError(f"the server at {self.url} broke off its answer: look at its log") from None

    def _read_pieces(self, lines: Iterable[bytes]) -> Generator[Piece, None, None]:
        first, has_event = b"", False
        for line in lines:
            first = first or line
            if not line.startswith(b"data:"):
                continue
            has_event = True
            if line.strip() == b"data: [DONE]":
                continue
            try:
                pieces = _read_event(line)
            except (ValueError, LookupError, TypeError, AttributeError):
                raise self._no_stream(line) from None
            yield from pieces
        if not has_event:
            raise self._no_stream(first)

    def _no_stream(self, came: bytes) -> ServerError:
        return ServerError(
            f"the server at {self.url} sent what is no event of a chat ({short_repr(came[:100], 120)}): look at its "
            "log, or correct --url"
        )

    def _explain_silence(self, error: httpx.TransportError) -> ServerError:
        if isinstance(error, httpx.ConnectError):
            return nobody_answers(self.url)
        return ServerError(f"the server at {self.url} does not answer ({error}): look at its log")

    def _raise_for_status(self, reply: httpx.Response) -> None:
        if reply.status_code == 401:
            raise ServerError(f"{self.url} wants an API key: give it with --api-key or PREFILLSHARE_API_KEY")
        if reply.status_code != 200:
            raise ServerError(_read_reason(reply) or f"{self.url} answered {reply.status_code}: correct --url")


def _clean_url(url: str) -> str:
    text = url.strip() if "://" in url else f"http://{url.strip()}"
    if parse_server(text) is None:
        raise ServerError(f"url {url!r} is not an address: use one such as {DEFAULT_URL}")
    return text.rstrip("/").removesuffix("/v1")


def _read_event(line: bytes) -> list[Piece]:
    """Return what one event adds to the answer.

    Raises: ServerError where it is an error; ValueError, LookupError, TypeError or AttributeError where it is no event.
    """
    event = json.loads(line.removeprefix(b"data:"))
    if error := event.get("error"):
        raise ServerError(str(error.get("message", error) if isinstance(error, dict) else error))
    texts = [(choice.get("delta") or {}).get("content") or "" for choice in event.get("choices") or []]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("the content is no text")
    pieces = [Piece(text=text) for text in texts if text]
    return [*pieces, Piece(usage=_read_usage(usage))] if (usage := event.get("usage")) else pieces


def _read_usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=details.get("cached_tokens") or 0,
        generated_tokens=usage.get("completion_tokens", 0),
    )


def _read_reason(reply: httpx.Response) -> str | None:
    try:
        content = reply.json()
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    error = content.get("error")
    message = error.get("message") if isinstance(error, dict) else error or content.get("message")
    return str(message) if message else None
