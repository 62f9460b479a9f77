"""The router's HTTP client before servers that behave as they should, and before those that do not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from prefillshare.routing.http import client as clients
from prefillshare.routing.http.client import HttpClient
from prefillshare.routing.http.connection import Connection
from prefillshare.routing.http.errors import BrokenOffError, CannotConnectError
from prefillshare.routing.http.reply import MAX_UNREAD_BYTES, Reply
from prefillshare.serving.machine.ports import free_port
from tests.routing.workers import in_loop, until

Behaviour = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """A server that treats each connection as it is told to."""

    def __init__(self, behave: Behaviour) -> None:
        self.num_connections = 0
        self.requests: list[bytes] = []
        self.num_open = 0
        self._behave = behave

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self.num_open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._behave(self, reader, writer)
        finally:
            self.num_open -= 1
            writer.close()

    async def read_request(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))


def saying(*answers: bytes, ends: bool = False) -> Behaviour:
    """Answer the requests of a connection with `answers`, each written in two halves, then wait or end."""

    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await server.read_request(reader)
            half = len(answer) // 2
            writer.write(answer[:half])
            await asyncio.sleep(0.01)
            writer.write(answer[half:])
        if not ends:
            await reader.read()

    return behave


class Client:
    """Posts to one server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = HttpClient(5.0)

    async def __call__(self, body: bytes = b"{}", *, is_stream: bool = False) -> Reply:
        headers = {"Content-Type": "application/json"}
        return await self.http.request("POST", self.url, "/v1/x", headers=headers, body=body, is_stream=is_stream)


@contextlib.asynccontextmanager
async def running(behave: Behaviour) -> AsyncIterator[tuple[Server, Client]]:
    server = Server(behave)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    async with listening:
        yield server, client
        client.http.close()


class Transport(asyncio.Transport):
    """Leads nowhere, and notes what is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append("write")

    def pause_reading(self) -> None:
        self.done.append("pause")

    def resume_reading(self) -> None:
        self.done.append("resume")


@in_loop
async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with running(saying(OK, OK, OK)) as (server, post):
        for _ in range(3):
            reply = await post(b'{"a": 1}')
            assert (await reply.read(), reply.status, reply.content_type) == (b"ok", 200, "application/json")
        assert server.num_connections == 1
        head = server.requests[0]
        assert head.startswith(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:")
        assert head.endswith(b'\r\nContent-Type: application/json\r\n\r\n{"a": 1}')


@in_loop
async def test_requests_at_a_time_have_connections_of_their_own() -> None:
    async with running(saying(OK)) as (server, post):
        replies = await asyncio.gather(*(post() for _ in range(3)))
        assert [await reply.read() for reply in replies] == [b"ok"] * 3
        assert server.num_connections == 3


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
UNTIL_END = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nabcde"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED,
        UNTIL_END,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" + CHUNKED,
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabcde",
    ],
)
@in_loop
async def test_every_way_to_end_an_answer(answer: bytes, is_stream: bool) -> None:
    async with running(saying(answer, ends=True)) as (server, post):
        for _ in range(2):
            reply = await post(is_stream=is_stream)
            pieces = [await reply.read()] if not is_stream else [piece async for piece in _pieces(reply)]
            assert (b"".join(pieces), reply.status) == (b"abcde", 200)
            await until(lambda: server.num_open == 0)
            await asyncio.sleep(0.02)


async def _pieces(reply: Reply) -> AsyncIterator[bytes]:
    while piece := await reply.read_piece():
        yield piece


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"",
    ],
)
@in_loop
async def test_what_is_no_whole_answer_breaks_off(answer: bytes) -> None:
    async with running(saying(answer, ends=True)) as (server, post):
        for _ in range(2):
            with pytest.raises(BrokenOffError):
                await (await post()).read()
        assert server.num_connections == 2, "nothing more is asked over such a connection"
        await until(lambda: server.num_open == 0)


@in_loop
async def test_what_came_before_a_stream_broke_off_is_read() -> None:
    async with running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabcde", ends=True)) as (_, post):
        reply, found = await post(is_stream=True), b""
        while len(found) < 5:
            found += await reply.read_piece()
        with pytest.raises(BrokenOffError):
            await reply.read_piece()
        assert found == b"abcde"


@pytest.mark.parametrize("more", [OK, b"HTTP/1.1 200 OK\r\n", b"\0"])
@in_loop
async def test_an_answer_that_nobody_asked_for_is_given_to_nobody(more: bytes) -> None:
    bad = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"

    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        # In one piece with the answer, or while the connection rests.
        writer.write(OK + (bad if more == OK else b""))
        await asyncio.sleep(0.02)
        writer.write(more)
        await reader.read()

    async with running(behave) as (server, post):
        for number in (1, 2):
            assert await (await post()).read() == b"ok"
            await until(lambda: server.num_open == 0)
            assert server.num_connections == number


@in_loop
async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async with running(saying(OK, ends=True)) as (server, post):
        for _ in range(3):
            assert await (await post()).read() == b"ok"
            await until(lambda: server.num_open == 0)
            await asyncio.sleep(0.02)
        assert server.num_connections == 3


@in_loop
async def test_a_connection_that_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "KEEP_ALIVE_S", 0.1)
    async with running(saying(OK, OK)) as (server, post):
        await (await post()).read()
        await until(lambda: server.num_open == 0)
        assert await (await post()).read() == b"ok"
        assert server.num_connections == 2


@in_loop
async def test_who_waits_no_longer_ends_the_connection() -> None:
    async with running(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc")) as (server, post):
        reading = asyncio.create_task((await post()).read())
        await until(lambda: server.requests)
        reading.cancel()
        await until(lambda: server.num_open == 0)
        reply = await post(is_stream=True)
        await reply.read_piece()
        reply.close()
        await until(lambda: server.num_open == 0)


@in_loop
async def test_a_reader_that_is_slow_holds_the_server_up_and_loses_nothing() -> None:
    written = 0
    size = 16 * MAX_UNREAD_BYTES

    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await server.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for number in range(size // 4096):
            writer.write(b"%04d" % (number % 10_000) * 1024)
            await writer.drain()
            written += 4096
        await reader.read()

    async with running(behave) as (_, post):
        reply = await post(is_stream=True)
        found = [await reply.read_piece()]
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.2)
        assert written < size, "it was not held up"
        found += [piece async for piece in _pieces(reply)]
        assert b"".join(found) == b"".join(b"%04d" % (number % 10_000) * 1024 for number in range(size // 4096))


@in_loop
async def test_a_sink_takes_pieces_until_it_refuses_and_never_the_last() -> None:
    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"a", b"b", b"c", b"d"):
            writer.write(b"1\r\n%b\r\n" % piece)
            await asyncio.sleep(0.05)
        writer.write(b"1\r\ne\r\n0\r\n\r\n")
        await reader.read()

    taken: list[bytes] = []

    def sink(piece: bytes) -> bool:
        if piece != b"c":
            taken.append(piece)
        return piece != b"c"

    async with running(behave) as (_, post):
        reply = await post(is_stream=True)
        returned = []
        while piece := await reply.read_piece(sink):
            returned.append(piece)
        assert b"".join(returned) == b"ce"
        assert b"".join(taken) == b"abd"
        assert reply.is_read


@in_loop
async def test_a_large_body_arrives_and_an_early_answer_is_heard() -> None:
    async def refuse(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.sleep(0.5)

    body = bytes(range(256)) * (1 << 16)
    async with running(saying(OK, OK)) as (server, post):
        assert await (await post(body)).read() == b"ok"
        assert server.requests[0].endswith(b"\r\n\r\n" + body)
        assert await (await post()).read() == b"ok"
        assert server.num_connections == 1
    async with running(refuse) as (server, post):
        for number in (1, 2):
            reply = await post(body)
            assert (await reply.read(), reply.status) == (b"no", 413)
            assert server.num_connections == number, "the rest of the body would be taken for a request"


@in_loop
async def test_a_server_that_left_keeps_no_connection() -> None:
    async with running(saying(OK, OK)) as (server, post):
        for _ in range(2):
            replies = [await post(), await post()]
            assert await replies[0].read() == b"ok"
            post.http.forget(post.url)
            assert await replies[1].read() == b"ok"
            await until(lambda: server.num_open == 0)


@in_loop
async def test_an_answer_that_was_held_up_and_is_given_up_holds_up_no_other() -> None:
    whole = 2 * MAX_UNREAD_BYTES
    big = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % whole + bytes(whole)
    transport = Transport()
    connection = Connection(
        asyncio.get_running_loop(),
        on_idle=lambda _: transport.done.append("idle"),
        on_closed=lambda _: transport.done.append("closed"),
    )
    connection.connection_made(transport)
    first = connection.request(b"", b"", is_stream=True)
    connection.data_received(big)  # so much at once that reading pauses, and the end with it
    first.close()
    assert transport.done == ["write", "pause", "resume", "idle"]
    second = connection.request(b"", b"", is_stream=False)
    connection.data_received(OK)
    assert await second.read() == b"ok"


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\nb", "a\0b"])
@in_loop
async def test_no_header_can_hold_a_line_end(value: str) -> None:
    client = HttpClient(1.0)
    with pytest.raises(ValueError, match="line end"):
        await client.request("GET", "http://127.0.0.1:1", "/", headers={"X-Request-Id": value})


@in_loop
async def test_where_nobody_listens_the_systems_reason_is_told() -> None:
    client = HttpClient(1.0)
    with pytest.raises(CannotConnectError, match="Connect call failed"):
        await client.request("GET", f"http://127.0.0.1:{free_port()}", "/", headers={})
    client.close()
