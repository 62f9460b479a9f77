"""Workers that answer at once: `python -m benchmarks.router.worker PREFILL_PORT PREFILL_MODEL DECODE_PORT`.

One process serves both roles. A streamed answer is 20 events, each written by itself; everything else is one body.
"""

import asyncio
import functools
import json
import sys
from typing import cast

import uvloop

from benchmarks.router.calls import MODULE, NUM_EVENTS

_EVENT = b'data: {"id":"0123456789abcdef","object":"chat.completion.chunk","created":1,"model":"math",'
_EVENT += b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
_DONE = b"data: [DONE]\n\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_PIECES = [*[_chunk(_EVENT)] * NUM_EVENTS, _chunk(_DONE) + b"0\r\n\r\n"]


class InstantWorker(asyncio.Protocol):
    """One connection to a worker."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (request := self._take_request()) is not None:
            self._answer(*request)

    def _take_request(self) -> tuple[bytes, bytes] | None:
        """Return the request line and the body of a complete request."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        lines = head.split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        return lines[0], rest[:length]

    def _answer(self, line: bytes, body: bytes) -> None:
        if b'"stream":true' in body.replace(b" ", b""):
            self._transport.write(_STREAM_HEAD)
            self._write_piece(0)
            return
        content = json.dumps(self._content(line.split(b" ")[1].decode())).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(content) + content)

    def _write_piece(self, number: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(_PIECES[number])
        if number + 1 < len(_PIECES):
            asyncio.get_running_loop().call_soon(self._write_piece, number + 1)

    def _content(self, path: str) -> object:
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": self._model, "object": "model", "owned_by": "sglang"}]}
        if path.endswith(("_info", "_load")):
            return {"model_path": self._model, "served_model_name": self._model, "is_generation": True}
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 50}}
        message = {"role": "assistant", "content": "word"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return {"id": "x", "object": "chat.completion", "model": self._model, "choices": choices, "usage": usage}


async def serve(prefill_port: int, prefill_model: str, decode_port: int) -> None:
    """Serve both workers until the process is ended."""
    loop = asyncio.get_running_loop()
    for model, port in ((prefill_model, prefill_port), (MODULE, decode_port)):
        await loop.create_server(functools.partial(InstantWorker, model), "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
