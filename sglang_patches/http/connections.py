"""Connections of an engine's HTTP server end when nobody uses them.

Target: ``uvicorn.protocols.http``, the ``connection_made`` of both of its protocols.
Why: uvicorn closes a connection that was idle after an answer, but never one that has not asked yet, or only half: some
    thousand of these and the process has no file descriptors left, and nobody is served.
How: each connection is looked at now and then; one that two looks in a row have found without a request, and without
    uvicorn's own clock for what was idle after an answer, is closed.
Upstream: uvicorn/protocols/http/h11_impl.py:92.
Remove when: uvicorn has a limit for the head of a request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

IDLE_S = 60.0
"""As the router's ``client_idle_timeout_s``."""
_WATCHED = "prefillshare_idle_s"
_IN_USE = object()
"""Seen in place of a cycle on a connection that has a request, or that uvicorn looks after."""


class Cycle(Protocol):
    """One request and its answer."""

    response_complete: bool


class HttpProtocol(Protocol):
    """What is looked at of a connection, in either of uvicorn's implementations."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Cycle | None
    timeout_keep_alive_task: asyncio.TimerHandle | None


Made = Callable[[HttpProtocol, "asyncio.Transport"], None]


def watch_connections(idle_s: float = IDLE_S) -> None:
    """Let every HTTP connection that is made from now on end after one to two times `idle_s` without a request."""
    for protocol in _protocols():
        if not hasattr(protocol, _WATCHED):
            setattr(protocol, _WATCHED, idle_s)
            protocol.connection_made = _wrap_connection_made(protocol.connection_made)


def _protocols() -> list[Any]:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:  # uvicorn takes the other one then
        return [H11Protocol]
    return [H11Protocol, HttpToolsProtocol]


def _wrap_connection_made(original: Made) -> Made:
    def connection_made(self: HttpProtocol, transport: asyncio.Transport) -> None:
        original(self, transport)
        _look_later(self, None)

    return connection_made


def _look_later(protocol: HttpProtocol, seen: object) -> None:
    protocol.loop.call_later(getattr(protocol, _WATCHED), _look, protocol, seen)


def _look(protocol: HttpProtocol, last_seen: object) -> None:
    """Close a connection that waits for a request, or for the rest of one, as it did at the last look."""
    if protocol.transport.is_closing():
        return
    seen = _see(protocol)
    if seen is last_seen and seen is not _IN_USE:
        protocol.transport.close()
    else:
        _look_later(protocol, seen)


def _see(protocol: HttpProtocol) -> object:
    """The latest request, None before the first, of a connection that waits for one that does not come."""
    cycle = protocol.cycle
    is_running = cycle is not None and not cycle.response_complete
    # Uvicorn's clock runs from the end of an answer to the first byte of the next request: who pauses between two calls
    # has all of that time, however long ago the last call began.
    return _IN_USE if is_running or protocol.timeout_keep_alive_task is not None else cycle
