"""How a stream ends that breaks off: with an event that says why, for every client that still reads."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from prefillshare.routing.call.relay import end_with_error
from prefillshare.routing.errors import WorkerFailedError
from tests.routing.workers import in_loop

CALLER: Any = SimpleNamespace(path="/v1/chat/completions")
ERROR = WorkerFailedError("it died")


class Writer:
    """A client's side of a stream: what it was sent, and how far behind it is."""

    def __init__(self, last: bytes = b"data: x\n\n", *, is_behind: bool = False, reads: bool = True) -> None:
        self.last, self.is_behind = last, is_behind
        self.sent: list[bytes] = []
        self.has_room = asyncio.Event()
        self.is_cut_off = False
        if reads:
            self.has_room.set()

    def takes(self, piece: bytes) -> bool:
        return not self.is_behind

    def write_at_once(self, piece: bytes) -> bool:
        return False

    async def write(self, piece: bytes) -> None:
        self.sent.append(piece)
        await self.has_room.wait()

    async def write_last(self, piece: bytes) -> None:
        await self.write(piece)

    def cut_off(self) -> None:
        self.is_cut_off = True


@pytest.mark.parametrize("is_behind", [False, True])
@in_loop
async def test_a_client_that_reads_is_told_however_far_behind_it_is(is_behind: bool) -> None:
    writer = Writer(is_behind=is_behind)
    await end_with_error(CALLER, writer, ERROR, patience_s=60.0)
    assert b"it died" in writer.sent[0]
    assert (writer.sent[1:], writer.is_cut_off) == ([b""], False)


@in_loop
async def test_a_client_that_does_not_read_is_cut_off_in_the_end() -> None:
    writer = Writer(is_behind=True, reads=False)
    await end_with_error(CALLER, writer, ERROR, patience_s=0.01)
    assert writer.is_cut_off


@pytest.mark.parametrize("writer", [{"is_behind": True}, {"last": b"data: half"}])
@in_loop
async def test_whom_nobody_waits_for_any_more_or_who_has_half_an_event_is_cut_off_at_once(writer: Any) -> None:
    client = Writer(**writer)
    await end_with_error(CALLER, client, ERROR)
    assert (client.sent, client.is_cut_off) == ([], True)
