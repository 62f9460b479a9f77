"""One call over HTTP, streamed, with the time of every piece."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from prefillshare.bench.systems.base import Target
from prefillshare.errors import BenchError, short_repr
from prefillshare.serving.options import auth_header
from prefillshare.wire.call_report import REPORT_KEY

_MAX_ROOM = 2**63 - 1
_FILLER_TOKEN = 10
"""Stands for generated tokens that a server does not report by id."""


@dataclass(slots=True, kw_only=True)
class Reply:
    """What came back; times are `time.monotonic()`."""

    times: list[float] = field(default_factory=list)
    """Arrival of each token; tokens of one piece arrive together."""
    tokens: list[int] = field(default_factory=list)
    """Generated token ids."""
    prompt_tokens: int = 0
    """Tokens of the prompt, as the server counted them."""
    cached_tokens: int | None = None
    """Prompt tokens that were not computed; None when the server does not say."""
    handoff_tokens: int | None = None
    """Prompt tokens whose KV was moved for this call."""
    handoff_bytes: int | None = None
    """Bytes of that KV, where the server says so."""

    def grow_to(self, num_tokens: int) -> None:
        """The answer has so many tokens now."""
        now = time.monotonic()
        self.times += [now] * (num_tokens - len(self.times))


class CallFailedError(BenchError):
    """A call was refused or broke off."""


class CallClient:
    """Calls the targets of one run."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(self, target: Target, prompt: list[int], num_tokens: int, session: str) -> Reply:
        """Greedy answer of exactly `num_tokens` tokens.

        Raises: CallFailedError.
        """
        try:
            if target.prefill is not None:
                reply = await self._ask_pair(target, prompt, num_tokens, session)
            elif target.dialect == "sglang":
                reply = await self._ask_sglang(target, _sglang_body(target, prompt, num_tokens), session)
            else:
                reply = await self._ask_openai(target, prompt, num_tokens, session)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise CallFailedError(f"{type(error).__name__}: {error}") from None
        if len(reply.tokens) != num_tokens:
            raise CallFailedError(f"{len(reply.tokens)} tokens came back instead of {num_tokens}")
        return reply

    async def _ask_pair(self, target: Target, prompt: list[int], num_tokens: int, session: str) -> Reply:
        """Both legs of a call to a plain pair; the answer is the decode worker's."""
        assert target.prefill is not None
        body = _sglang_body(target, prompt, num_tokens) | {
            "bootstrap_host": "127.0.0.1",
            "bootstrap_port": target.prefill.bootstrap_port,
            "bootstrap_room": random.randrange(_MAX_ROOM),
        }
        first = asyncio.create_task(self._post(f"{target.prefill.url}/generate", body | {"stream": False}))
        try:
            reply = await self._ask_sglang(target, body, session)
            prefilled = await first
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        # The decode worker reports what it held itself; the prefill worker what it did not compute.
        reply.handoff_tokens = reply.prompt_tokens - (reply.cached_tokens or 0)
        reply.cached_tokens = _read(prefilled, "meta_info", "cached_tokens")
        return reply

    async def _ask_sglang(self, target: Target, body: dict[str, Any], session: str) -> Reply:
        reply = Reply()
        async for event in self._events(f"{target.url}/generate", body, target, session):
            reply.tokens, meta = _read(event, "output_ids"), _read(event, "meta_info")
            reply.grow_to(len(reply.tokens))
            reply.prompt_tokens, reply.cached_tokens = _read(meta, "prompt_tokens"), meta.get("cached_tokens")
            for sizes in meta.get(REPORT_KEY) or ():
                reply.handoff_tokens, reply.handoff_bytes = sizes.get("handoff_tokens"), sizes.get("handoff_bytes")
        if reply.handoff_tokens is not None:
            # What a decode worker held says nothing about what its prefill worker computed.
            reply.cached_tokens = None
        return reply

    async def _ask_openai(self, target: Target, prompt: list[int], num_tokens: int, session: str) -> Reply:
        body = {
            "model": target.model,
            "prompt": prompt,
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        reply, num_generated = Reply(), None
        async for event in self._events(f"{target.url}/v1/completions", body, target, session):
            for choice in event.get("choices") or ():
                _take_piece(reply, choice)
            if usage := event.get("usage"):
                reply.prompt_tokens = _read(event, "usage", "prompt_tokens")
                num_generated = _read(event, "usage", "completion_tokens")
                reply.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        num_generated = len(reply.times) if num_generated is None else num_generated
        reply.tokens = (reply.tokens + [_FILLER_TOKEN] * num_generated)[:num_generated]
        del reply.times[num_generated:]
        reply.grow_to(num_generated)
        return reply

    async def _events(
        self, url: str, body: dict[str, Any], target: Target, session: str
    ) -> AsyncIterator[dict[str, Any]]:
        headers = {"X-Session-ID": session, **auth_header(target.api_key)}
        async with self._http.post(url, data=orjson.dumps(body), headers=headers | _JSON) as response:
            if response.status != 200:
                raise CallFailedError(f"HTTP {response.status}: {(await response.text())[:300]}")
            async for line in response.content:
                if not line.startswith(b"data:") or line.strip() == b"data: [DONE]":
                    continue
                event = _parse(line[5:])
                if error := event.get("error"):
                    raise CallFailedError(str(error))
                yield event

    async def _post(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._http.post(url, data=orjson.dumps(body), headers=_JSON) as response:
            if response.status != 200:
                raise CallFailedError(f"HTTP {response.status}: {(await response.text())[:300]}")
            return _parse(await response.read())


_SHOWN = 200
"""Letters that are told of what cannot be read."""
_JSON = {"Content-Type": "application/json"}


def _sglang_body(target: Target, prompt: list[int], num_tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "input_ids": prompt,
        "sampling_params": {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True},
        "stream": True,
    }
    if target.model is not None:
        body["model"] = target.model
    if target.adapter is not None:
        body["lora_path"] = target.adapter
    return body


def _parse(content: bytes) -> dict[str, Any]:
    """Return the object that came.

    Raises: CallFailedError.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise CallFailedError(f"this is no JSON object: {short_repr(content, _SHOWN)}")
    return value


def _read(value: Any, *names: str) -> Any:
    """Return what came under `names`, one below the other.

    Raises: CallFailedError.
    """
    found = value
    for name in names:
        if not isinstance(found, dict) or name not in found:
            raise CallFailedError(f"{'.'.join(names)} is missing: {short_repr(value, _SHOWN)}")
        found = found[name]
    return found


def _take_piece(reply: Reply, choice: dict[str, Any]) -> None:
    """Take one piece of an OpenAI stream in: its token ids, or one token when it has text and no ids."""
    ids = choice.get("token_ids")
    if ids:
        reply.tokens += ids
        reply.grow_to(len(reply.tokens))
    elif choice.get("text") and not reply.tokens:
        reply.grow_to(len(reply.times) + 1)
