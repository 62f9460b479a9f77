"""Requests as bytes, for what no HTTP library would send."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
CHAT = b'{"model": "math", "messages": [{"role": "user", "content": "hello there"}]}'


async def send(
    url: str,
    body: bytes = CHAT,
    *,
    head: bytes = b"POST /v1/chat/completions",
    headers: Sequence[bytes] = (),
    connection: Connection | None = None,
) -> tuple[int, bytes]:
    """Send one request on a connection of its own and return status and body of the answer."""
    lines = [head + b" HTTP/1.1", b"Host: router", b"Connection: close", *headers]
    if not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in headers):
        lines.append(b"Content-Length: %d" % len(body))
    if not any(line.lower().startswith(b"content-type") for line in headers):
        lines.append(b"Content-Type: application/json")
    reader, writer = connection or await connect(url)
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    try:
        return answer_of(await reader.read())
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    """End a connection."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def connect(url: str) -> Connection:
    """Open a connection."""
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


def answer_of(raw: bytes) -> tuple[int, bytes]:
    """Status and body of an answer that is not chunked."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


def error_of(body: bytes) -> dict[str, Any]:
    """OpenAI's error object of an answer, with all of its four keys."""
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str)
    assert error["message"]
    return error
