"""What ASGI middlewares need to read a request, to give one on, and to keep an answer back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class KeptAnswer:
    """An answer that is kept in place of being sent."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def send(self, message: Message) -> None:
        """Keep a part."""
        self._messages.append(message)

    async def pass_on(self, send: Send) -> None:
        """Send all of it after all."""
        for message in self._messages:
            await send(message)


def read_header(scope: Message, name: bytes) -> str:
    """The value of a header by its name in small letters; empty where there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def replay(body: bytes, receive: Receive) -> Receive:
    """A request whose body is ``body``; what comes after it comes from ``receive``."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message
