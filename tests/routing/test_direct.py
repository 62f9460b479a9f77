"""Calls that are read without aiohttp are answered like those that are not, however their bytes come."""

import asyncio
import contextlib
import random
import re
import socket
from collections.abc import AsyncIterator, Mapping

import pytest

from prefillshare.routing.web.direct import lane
from prefillshare.routing.web.direct.answering import DirectCaller
from prefillshare.routing.web.direct.asked import read_head
from tests.routing.raw import CHAT, Connection, close, connect
from tests.routing.workers import Deployment, deployment, in_loop, until

STREAM = CHAT[:-1] + b', "stream": true}'
BAD = b'{"model": "math"}'
PAGE = b"GET /health HTTP/1.1\r\nHost: router\r\n\r\n"
UNUSUAL = (b"TE: trailers",)


def call(body: bytes = CHAT, *headers: bytes, line: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    """A call in bytes."""
    lines = [line, b"Host: router", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next answer on a connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    if length := re.search(rb"content-length: (\d+)", head.lower()):
        return head, await reader.readexactly(int(length[1]))
    body = b""
    while size := int((await reader.readline()).strip(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return head, body


def without_moment(head: bytes) -> set[bytes]:
    """Lines of a head whose order says nothing, without the time."""
    return {line.lower() for line in head.split(b"\r\n") if line and not line.lower().startswith(b"date:")}


@pytest.fixture
def read_directly(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each call that was read without aiohttp."""
    found: list[bool] = []

    def count(*args: object) -> DirectCaller:
        found.append(True)
        return DirectCaller(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(lane, "DirectCaller", count)
    return found


@contextlib.asynccontextmanager
async def connected(running: Deployment) -> AsyncIterator[Connection]:
    connection = await connect(running.url)
    try:
        yield connection
    finally:
        await close(connection[1])


@pytest.mark.parametrize("end", [(), (b"Connection: close",)])
@pytest.mark.parametrize("body", [CHAT, STREAM, BAD, b"no JSON", b"", CHAT.replace(b"math", b"nobody")])
@in_loop
async def test_an_answer_is_the_one_that_aiohttp_gives(
    body: bytes, end: tuple[bytes, ...], read_directly: list[bool]
) -> None:
    async with deployment() as running, connected(running) as direct, connected(running) as other:
        direct[1].write(call(body, *end))
        answer = await read_answer(direct[0])
        other[1].write(call(body, *end, *UNUSUAL))
        expected = await read_answer(other[0])
        assert len(read_directly) == 1
        assert (without_moment(answer[0]), answer[1]) == (without_moment(expected[0]), expected[1])
        for reader, writer in (direct, other):
            writer.write(b"" if end else PAGE)
            assert (await reader.read(1) == b"") == bool(end)


@in_loop
async def test_calls_in_any_pieces_are_answered_in_turn(read_directly: list[bool]) -> None:
    chance = random.Random(7)
    asked = [call(), call(STREAM), PAGE, call(BAD), call(CHAT, *UNUSUAL), call()]
    expected = [200, 200, 200, 400, 200, 200]
    async with deployment() as running:
        for number in range(40):
            async with connected(running) as (reader, writer):
                sent = b"".join(asked)
                cuts = sorted(chance.sample(range(1, len(sent)), number))
                for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
                    writer.write(sent[start:end])
                    await asyncio.sleep(0)
                heads = [(await read_answer(reader))[0] for _ in asked]
                assert [int(head.split()[1]) for head in heads] == expected
        assert len(read_directly) >= 80, "the first two of each connection"


@pytest.mark.parametrize("headers", [(), UNUSUAL])
@in_loop
async def test_a_stream_whose_end_comes_by_itself_ends(headers: tuple[bytes, ...]) -> None:
    async with deployment() as running, connected(running) as (reader, writer):
        running["math-0"].end_s = 0.05
        for _ in range(2):
            writer.write(call(STREAM, *headers))
            _, body = await read_answer(reader)
            assert body.endswith(b"data: [DONE]\n\n")
        assert running.gateway.proxy.counters.answered == 2


@in_loop
async def test_a_page_between_two_calls_leaves_the_connection_to_both(read_directly: list[bool]) -> None:
    async with deployment() as running, connected(running) as (reader, writer):
        for asked in (call(), PAGE, call(STREAM), PAGE, call()):
            writer.write(asked)
            assert b" 200 " in (await read_answer(reader))[0]
        assert len(read_directly) == 3
        for asked in (call(CHAT, *UNUSUAL), call()):
            writer.write(asked)
            assert b" 200 " in (await read_answer(reader))[0]
        assert len(read_directly) == 3, "nobody knows whether aiohttp is in the middle of a request"


@in_loop
async def test_a_call_that_comes_slowly_is_answered(read_directly: list[bool]) -> None:
    async with deployment() as running:
        for cut, is_direct in ((10, True), (10, False), (len(call()) - 5, False)):
            read_directly.clear()
            async with connected(running) as (reader, writer):
                writer.write(call()[:cut])
                await asyncio.sleep(0 if is_direct else 2 * lane._PATIENCE_S)
                writer.write(call()[cut:])
                assert b" 200 " in (await read_answer(reader))[0]
            assert bool(read_directly) == is_direct


@in_loop
async def test_a_call_that_is_answered_for_long_outlives_the_idle_time() -> None:
    async with deployment(idle_s=0.3) as running, connected(running) as (reader, writer):
        running["math-0"].first_byte_s = 1.0
        for _ in range(2):
            writer.write(call())
            assert b" 200 " in (await read_answer(reader))[0]
        assert await reader.read() == b"", "an idle connection ends"


@in_loop
async def test_a_client_that_leaves_ends_its_call(read_directly: list[bool]) -> None:
    async with deployment() as running:
        running["math-0"].gate = asyncio.Semaphore(1)
        async with connected(running) as (reader, writer):
            writer.write(call(STREAM) * 2)
            await reader.readuntil(b"data:")
        await until(lambda: running.gateway.proxy.counters.aborted == 1)
        assert running.gateway.num_running == running.parts.descriptors.num_calls == 0
        assert len(read_directly) == 1, "what it had asked for besides is not begun"


@in_loop
async def test_a_client_that_does_not_read_holds_up_nobody_but_itself() -> None:
    async with deployment(idle_timeout_s=1.0) as running, connected(running) as (_, writer):
        running["math-0"].pieces, running["math-0"].answer = ["x" * (1 << 20)] * 64, {"text": "ok"}
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(call(STREAM) + call())
        await until(lambda: running.gateway.proxy.counters.calls == 1)
        async with connected(running) as (reader, other):
            other.write(call())
            assert b" 200 " in (await read_answer(reader))[0]
        await until(lambda: running.gateway.proxy.counters.failed == 1)


@pytest.mark.parametrize("headers", [(), UNUSUAL])
@in_loop
async def test_a_client_that_reads_not_even_the_end_is_cut_off(headers: tuple[bytes, ...]) -> None:
    async with deployment(idle_timeout_s=3.0) as running, connected(running) as (_, writer):
        # Whole events, one after the other: the client could be told why its stream ends, if it read.
        worker, gate = running["math-0"], asyncio.Semaphore(0)
        worker.pieces, worker.gate = ["x" * (1 << 15)] * 2000, gate
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(call(STREAM, *headers))
        while running.gateway.proxy.num_running or not worker.bodies:
            gate.release()
            await asyncio.sleep(0.001)
        counters = running.gateway.proxy.counters
        assert (counters.failed, counters.aborted) == (1, 0)
        await until(lambda: running.parts.descriptors.num_connections == 0)


@in_loop
async def test_a_client_that_asks_for_more_than_is_answered_is_not_read_on() -> None:
    async with deployment() as running, connected(running) as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        writer.write(call() * (24_000_000 // len(call())))
        for _ in range(60):
            assert b" 200 " in (await read_answer(reader))[0]
        # The rest is where it came from, but for what the system's buffers take.
        assert writer.transport.get_write_buffer_size() > 16_000_000
        writer.transport.abort()


@in_loop
async def test_a_client_that_reads_no_answer_is_given_no_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = []

    class Caller(DirectCaller):
        def answer(self, body: bytes, *, status: int, headers: Mapping[str, str]) -> None:
            super().answer(body, status=status, headers=headers)
            waiting.append(self._transport.get_write_buffer_size())

    monkeypatch.setattr(lane, "DirectCaller", Caller)
    size, num_calls = 1 << 20, 60
    async with deployment() as running, connected(running) as (reader, writer):
        running["math-0"].answer = {"text": "x" * size}
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(call() * num_calls)
        await until(lambda: any(waiting))
        for _ in range(num_calls):  # meanwhile all of its calls could be answered
            assert (await running.chat()).status == 200
        assert max(waiting) < 2 * size
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(num_calls):
            assert b" 200 " in (await read_answer(reader))[0]


@pytest.mark.parametrize("headers", [(), UNUSUAL])
@in_loop
async def test_a_client_that_leaves_while_it_is_not_read_ends_its_call(headers: tuple[bytes, ...]) -> None:
    async with deployment() as running, connected(running) as (_, writer):
        running["math-0"].gate = asyncio.Semaphore(0)
        writer.write(call(STREAM, *headers) + call() * 400)
        await until(lambda: running["math-0"].running == 1)
        await writer.drain()
        writer.transport.abort()
        await until(lambda: running.gateway.num_running == running["math-0"].running == 0)
        assert running.gateway.proxy.counters.calls == 1, "what it had asked for besides is not begun"


@in_loop
async def test_what_nobody_caught_is_an_error_to_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*args: object, **kwargs: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(lane, "answer_call", fail)
    async with deployment() as running, connected(running) as (reader, writer):
        writer.write(call())
        head, body = await read_answer(reader)
        assert b" 500 " in head
        assert b"the router failed on this request" in body
        assert await reader.read() == b""
        assert running.parts.descriptors.num_calls == 0
    assert "POST /v1/chat/completions failed" in caplog.text


@in_loop
async def test_a_router_that_stops_says_so_and_ends_the_connection() -> None:
    async with deployment() as running, connected(running) as (reader, writer):
        running.gateway.is_draining = True
        writer.write(call())
        head, _ = await read_answer(reader)
        assert b" 503 " in head
        assert head.lower().count(b"connection: close") == 1
        assert await reader.read() == b""


@pytest.mark.parametrize(
    "data",
    [
        call(line=b"POST /v1/chat/completions HTTP/1.0"),
        call(line=b"post /v1/chat/completions HTTP/1.1"),
        call(line=b"POST  /v1/chat/completions HTTP/1.1"),
        call(line=b"POST /v1/chat/completions?a=b HTTP/1.1"),
        call(line=b"PUT /generate HTTP/1.1"),
        call().replace(b"\r\n", b"\n"),
        call(CHAT, b"Content-Length: %d" % len(CHAT)),
        call(CHAT, b"CONTENT-LENGTH: 3"),
        call().replace(b"Length: ", b"Length: +"),
        call().replace(b"Length: ", b"Length: 0x"),
        call().replace(b"Length: ", b"Length: 1 "),
        call().replace(b"Length: ", b"Length : "),
        call().replace(b"Length: ", b"Length: 99999999"),
        call().replace(b"/json", b"/json; charset=utf-16"),
        call().replace(b"/json", b"/xml"),
        call(CHAT, b"Transfer-Encoding: chunked"),
        call(CHAT, b"transfer-encoding:identity"),
        call(CHAT, b"Expect: 100-continue"),
        call(CHAT, b"Content-Encoding: gzip"),
        call(CHAT, b"Origin: https://page.example"),
        call(CHAT, b"Proxy-Connection: close"),
        call().replace(b"Host: router\r\n", b""),
        call(CHAT, b"Connection: upgrade", b"Upgrade: websocket"),
        call(CHAT, b"X-Folded: a", b" b"),
        call(CHAT, b"X-Nothing"),
        call(CHAT, b": nameless"),
        call(CHAT, b"X Y: a"),
        call(CHAT, b"X-Y: a\0b"),
        call(CHAT, b"X-Y: a\rb"),
        call(CHAT, b"X-Y: a\nTransfer-Encoding: chunked"),
        call(CHAT, *[b"X-%d: a" % number for number in range(100)]),
        call(CHAT, b"X-Long: " + b"a" * 9000),
        call(CHAT, b"X-\xe9: a"),
    ],
)
def test_what_is_unusual_is_left_to_aiohttp(data: bytes) -> None:
    assert read_head(call()) is not None
    assert read_head(data) is None
