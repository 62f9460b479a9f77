"""What a server answers to one request, as it comes."""

import asyncio
from collections.abc import Callable

MAX_UNREAD_BYTES = 1 << 20
"""Of a stream; while more waits to be read, the connection is not read from."""

Sink = Callable[[bytes], bool]
"""Takes a piece of a stream as it comes, or refuses it."""


class Reply:
    """One answer; whoever has it reads it to its end, or closes it."""

    __slots__ = (
        "_close",
        "_error",
        "_loop",
        "_num_unread",
        "_pause",
        "_pieces",
        "_sink",
        "_waiter",
        "_wants_whole",
        "headers",
        "is_over",
        "is_paused",
        "status",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        wants_whole: bool,
        close: Callable[[], None],
        pause: Callable[[bool], None],
    ) -> None:
        """`wants_whole` wakes the reader once, at the end. `close` ends the connection, `pause` stops reading it."""
        self.status = 0
        """HTTP status; like the headers it is there as soon as anything was read."""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names as they came, and values."""
        self.is_over = False
        """Whether all of it is there, or no more will come."""
        self.is_paused = False
        self._loop = loop
        self._wants_whole = wants_whole
        self._close = close
        self._pause = pause
        self._pieces: list[bytes] = []
        self._num_unread = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None

    @property
    def content_type(self) -> str:
        """The header Content-Type; JSON where there is none."""
        return self.find_header(b"content-type") or "application/json"

    @property
    def is_read(self) -> bool:
        """Whether all of it was there, and was read."""
        return self.is_over and not self._pieces and self._error is None

    def find_header(self, name: bytes) -> str | None:
        """Return the value of the header `name`, which is given in small letters; None without it."""
        for found, value in self.headers:
            if found.lower() == name:
                return value.decode("utf-8", "surrogateescape")
        return None

    async def read(self) -> bytes:
        """Return all that was not read yet, once all of it is there.

        Raises: BrokenOffError.
        """
        self._wants_whole = True
        self._read_on()
        while not self.is_over:
            await self._wait()
        if self._error is not None:
            raise self._error
        return self._take()

    async def read_piece(self, sink: Sink | None = None) -> bytes:
        """Return what has come and was not read yet, waiting for something to come; empty at the end.

        While this waits, pieces go to `sink` as soon as they come, and are returned here only where it refuses: so a
        stream that its reader merely passes on wakes nobody for each piece. The last piece is always returned.
        Raises: BrokenOffError, once all that had come before was read.
        """
        while not self._pieces:
            if self.is_over:
                if self._error is not None:
                    raise self._error
                return b""
            self._sink = sink
            await self._wait()
        piece = self._take()
        self._read_on()
        return piece

    def close(self) -> None:
        """Read no more of it; the server sees that nobody waits any longer."""
        if not self.is_over:
            self._close()

    def add(self, piece: bytes) -> None:
        """Take in a piece of the body."""
        self._pieces.append(piece)
        self._num_unread += len(piece)
        # One that is wanted whole is never paused: its reader takes nothing before the end.
        if self._num_unread > MAX_UNREAD_BYTES and not self._wants_whole and not self.is_paused:
            self.is_paused = True
            self._pause(True)

    def end(self, error: Exception | None = None) -> None:
        """Hear that no more comes: all of it is there, or there was an `error`."""
        self.is_over = True
        self._error = error
        self._read_on()  # the connection is not this answer's any more

    def wake(self) -> None:
        """Wake the reader if there is what it waits for."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if not self.is_over:
            if self._wants_whole or not self._pieces:
                return
            if self._sink is not None and self._sink(self._join()):
                self._pieces.clear()
                self._num_unread = 0
                self._read_on()
                return
        waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()  # the server sees that nobody waits any more
            raise
        finally:
            self._waiter = self._sink = None

    def _take(self) -> bytes:
        whole = self._join()
        self._pieces.clear()
        self._num_unread = 0
        return whole

    def _join(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def _read_on(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._pause(False)
