"""The client of the benchmark: streaming chat calls over kept connections, timed to the first byte and to the end."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from prefillshare.contract import SESSION_HEADER

BASE = "base"
MODULE = "math"
NUM_EVENTS = 20
CALL_TIMEOUT_S = 30.0
_PROMPT_WORDS = "apple train price number total each shop then says what many of it be left".split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One call that was answered in full."""

    first_byte_s: float
    """From the moment at which the call was due to the first byte of the answer's body."""
    whole_s: float
    """From then to its last byte."""


class Connection(asyncio.Protocol):
    """One connection that makes one call at a time."""

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None
        self._body = bytearray()
        self._is_head_over = False
        self.first_byte_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the connection was closed in the middle of an answer"))

    @property
    def is_closed(self) -> bool:
        """Whether the other side has closed it."""
        return self._transport.is_closing()

    async def call(self, request: bytes) -> None:
        """Send `request` and wait for the whole answer.

        Raises: ConnectionError for a broken answer or one that is not what the workers send.
        """
        self._done = asyncio.get_running_loop().create_future()
        self._body.clear()
        self._is_head_over = False
        self._transport.write(request)
        await self._done
        if self._body.count(b"data:") != NUM_EVENTS + 1:
            raise ConnectionError(f"answer of {self._body.count(b'data:')} events: {bytes(self._body[:300])!r}")

    def data_received(self, data: bytes) -> None:
        self._body += data
        if not self._is_head_over:
            end = self._body.find(b"\r\n\r\n")
            if end < 0 or end + 4 == len(self._body):
                return
            self._is_head_over = True
            self.first_byte_at = time.perf_counter()
        if self._body.endswith(b"0\r\n\r\n") or not self._body.startswith(b"HTTP/1.1 200"):
            assert self._done is not None
            if not self._done.done():
                self._done.set_result(None)


class Target:
    """One address under test and its kept connections."""

    def __init__(self, port: int, seed: int = 0, sessions: Sequence[str] = ()) -> None:
        """Calls name one of `sessions` each, if there are any."""
        self._port = port
        self._sessions = sessions
        self._idle: list[Connection] = []
        self._random = random.Random(seed)
        self.num_errors = 0
        self.last_error = ""

    async def call(self, due: float) -> Timing | None:
        """Make one call that was due at `due` (perf_counter); None when it failed."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                connection = await self._connection()
                await connection.call(self._request())
        except (OSError, TimeoutError) as error:
            self.num_errors += 1
            self.last_error = str(error) or type(error).__name__
            return None
        self._idle.append(connection)
        return Timing(first_byte_s=connection.first_byte_at - due, whole_s=time.perf_counter() - due)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed:
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        return connection

    def _request(self) -> bytes:
        text = " ".join(self._random.choices(_PROMPT_WORDS, k=100))
        messages = [{"role": "user", "content": text}]
        body = orjson.dumps({"model": MODULE, "messages": messages, "max_tokens": NUM_EVENTS, "stream": True})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
        if self._sessions:
            head += f"{SESSION_HEADER}: {self._random.choice(self._sessions)}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


async def open_loop(target: Target, *, rate: float, duration_s: float, seed: int) -> list[Timing]:
    """Make calls at random moments (Poisson), `rate` per second, whatever the answers do.

    A call counts from the moment at which it was due, so a client or router that falls behind cannot hide it.
    """
    chance = random.Random(seed)
    tasks = []
    due = time.perf_counter() + 0.1
    end = due + duration_s
    while due < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(target.call(due)))
        due += chance.expovariate(rate)
    return [timing for timing in await asyncio.gather(*tasks) if timing is not None]


async def closed_loop(target: Target, *, num_clients: int, duration_s: float) -> float:
    """Let `num_clients` call one after the other; return answered calls per second."""
    started = time.perf_counter()
    end = started + duration_s
    num_answered = 0

    async def client() -> None:
        nonlocal num_answered
        while time.perf_counter() < end:
            is_answered = await target.call(time.perf_counter()) is not None
            num_answered += is_answered

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return num_answered / (time.perf_counter() - started)


async def until_answered(make: Callable[[], Awaitable[Timing | None]], timeout_s: float) -> bool:
    """Repeat a call until it is answered; return whether it was."""
    end = time.perf_counter() + timeout_s
    while time.perf_counter() < end:
        if await make() is not None:
            return True
        await asyncio.sleep(0.2)
    return False
