"""Who calls, as far as a call needs to know: what came with it, and the way back for its answer."""

from collections.abc import Mapping
from typing import Protocol

from prefillshare.tenants.account import Account


class StreamWriter(Protocol):
    """A stream towards the client, whose status is out or goes out with its first piece."""

    last: bytes
    """The last piece that was written; empty once nothing may follow it."""

    def takes(self, piece: bytes) -> bool:
        """Whether writing `piece` waits for nobody."""
        ...

    async def write(self, piece: bytes) -> None:
        """Write a piece, and wait for a client that does not read.

        Raises: ConnectionResetError when the client has left; AnswerError for a piece that has to be read, and cannot.
        """
        ...

    def write_at_once(self, piece: bytes) -> bool:
        """Write a further piece if that waits for nobody; return whether it did."""
        ...

    async def write_last(self, piece: bytes) -> None:
        """Write the last piece, which may be empty, and the end of the stream.

        Raises: as `write`.
        """
        ...

    def cut_off(self) -> None:
        """End the connection, so that nobody takes what was written for a whole answer."""
        ...


class Caller(Protocol):
    """One client that waits for the answer to one request."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers, whatever the case of their names; see `routing/headers.py` for their text."""
        ...

    @property
    def method(self) -> str:
        """The request's method."""
        ...

    @property
    def path(self) -> str:
        """The path as it came."""
        ...

    @property
    def account(self) -> Account | None:
        """The tenant whose request it is; None for everybody else's."""
        ...

    def answer(self, body: bytes, *, status: int, headers: Mapping[str, str]) -> None:
        """Give a whole answer."""
        ...

    async def begin_stream(self, *, status: int = 200, headers: Mapping[str, str]) -> StreamWriter:
        """Begin an answer that comes in pieces.

        Raises: ConnectionResetError when the client has left.
        """
        ...
