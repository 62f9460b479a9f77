"""The rows of an aborted hand-off are free for others when nobody writes to them any more: who still does.

``Transfers`` is a prefill worker's side, ``Aborts`` a decode worker's; :mod:`sglang_patches.engine.nixl` says what must
come in which order. After ``LONGEST_S`` without an answer the prefill worker counts as gone. Each rank of a decode
worker waits for its own rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zmq
    from sglang.srt.disaggregation.common.utils import FastQueue, TransferKVChunk
    from sglang.srt.disaggregation.nixl.conn import NixlKVManager

LONGEST_S = 10.0
ANSWER = b"ABORT_ACK"
"""First frame of an answer, as Mooncake's has it; the second is the room."""

Address = tuple[str, int]
"""Host and port at which a decode worker hears answers."""

logger = logging.getLogger(__name__)


class Transfers:
    """A prefill worker's running transfers by room, and who wants to hear of their end.

    Its transfer threads and its listener come here at the same time.
    """

    def __init__(self, answer: Callable[[int, Address], None]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self._num_running: Counter[int] = Counter()
        self._asked: dict[int, list[Address]] = {}

    def begin(self, room: int) -> None:
        """A transfer of the room begins."""
        with self._lock:
            self._num_running[room] += 1

    def end(self, room: int) -> None:
        """It is over, however it went."""
        with self._lock:
            self._num_running[room] -= 1
            if self._num_running[room] > 0:
                return
            del self._num_running[room]
            asked = self._asked.pop(room, [])
        # Outside of the lock: a socket may block, and the other transfer threads must not wait for it.
        for address in asked:
            self._answer(room, address)

    def answer_at_end(self, room: int, address: Address) -> None:
        """Tell `address` when no transfer of the room runs, which may be now."""
        # One lock for counting and asking: a transfer that ends between the look and the note would answer nobody.
        with self._lock:
            if room in self._num_running:
                self._asked.setdefault(room, []).append(address)
                return
        self._answer(room, address)


class WatchedQueue:
    """The queue of one transfer thread, which asks for the next chunk when it is done with the last.

    Chunks of rooms that the worker has forgotten meanwhile are left out; upstream's thread takes them for an error.
    """

    def __init__(self, queue: FastQueue, transfers: Transfers, rooms: Container[int]) -> None:
        self._queue = queue
        self._transfers = transfers
        self._rooms = rooms
        self._room: int | None = None
        self.put = queue.put

    def get(self) -> TransferKVChunk:
        """The next chunk; blocks until there is one."""
        while True:
            # Upstream's thread has no end of a chunk but this: it asks for the next one when the last is written.
            if self._room is not None:
                self._transfers.end(self._room)
            chunk: TransferKVChunk = self._queue.get()
            self._room = chunk.room
            # Before the thread looks whether the room has failed: from here on an abort is answered only at the end.
            self._transfers.begin(chunk.room)
            if chunk.room in self._rooms:
                return chunk


class Aborts:
    """A decode worker's aborted hand-offs that the prefill worker has not answered yet.

    The scheduler asks and looks, a thread of its own hears the answers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[int, tuple[int, float]] = {}

    def ask(self, room: int, num_ranks: int) -> None:
        """So many ranks of a prefill worker are about to be told that the room is aborted."""
        with self._lock:
            self._open[room] = (num_ranks, self._clock())

    def answered(self, room: int) -> None:
        """A rank does not write to the room's rows any more."""
        with self._lock:
            if room in self._open:
                num_ranks, since = self._open[room]
                self._open[room] = (num_ranks - 1, since)

    def is_open(self, room: int) -> bool:
        """Whether the room's rows may still be written to.

        Effects: forgets a room that is not open any more.
        """
        with self._lock:
            num_ranks, since = self._open.get(room, (0, 0.0))
            if num_ranks > 0 and self._clock() - since < LONGEST_S:
                return True
            # An answer that comes later finds no entry, and the room's number is not used again.
            self._open.pop(room, None)
        if num_ranks > 0:
            logger.warning("The prefill worker did not answer an abort within %g s: it counts as gone.", LONGEST_S)
        return False


def send_answer(manager: NixlKVManager, room: int, address: Address) -> None:
    """Tell a decode worker that ``manager`` does not write to the rows of ``room`` any more."""
    import zmq
    from sglang.srt.utils.network import NetworkAddress

    there = NetworkAddress(*address)
    try:
        manager._send_multipart_locked(there.to_tcp(), [ANSWER, str(room).encode()], is_ipv6=there.is_ipv6)
    except zmq.ZMQError as error:
        logger.warning("The decode worker at %s:%d cannot be told that an abort is done: %s", *address, error)


def hear_answers(socket: zmq.Socket[bytes], aborts: Aborts) -> None:
    """Note every answer that comes; a thread of a decode worker, for as long as that lives."""
    while True:
        match socket.recv_multipart():
            case [first, room] if first == ANSWER and room.isdigit():
                aborts.answered(int(room))
            case message:
                logger.warning("A message that nobody expects came to the hand-off port: %.40r", message[0])
