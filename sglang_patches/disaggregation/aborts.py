"""The rows of an aborted hand-off are free for others when nobody writes to them any more.

Target: ``sglang.srt.disaggregation.nixl.conn``: ``NixlKVManager.transfer_worker`` and ``_handle_abort_notification``,
    ``NixlKVReceiver.poll``; ``sglang.srt.disaggregation.common.conn``:
    ``CommonKVManager._start_heartbeat_checker_thread``, ``CommonKVReceiver._send_abort_notification``
Why: a decode worker gives the rows of an aborted call back at once, while the prefill worker may still be writing to
    them: a running answer that gets such a row for its next token is spoiled, and nothing tells. And it no longer
    looks after its connection, so that a transfer which needs both sides, and all behind it, may never end.
How: the prefill worker answers an abort notification when no transfer of that room runs; none begins later, because
    the room has failed by then. The decode worker's queue, which frees the rows of a failed hand-off, hears of the
    failure when every answer is there; until then the connection is looked after. After ``LONGEST_S`` without an
    answer the prefill worker counts as gone. Each rank of a decode worker waits for its own rows.
Upstream: sglang/srt/disaggregation/nixl/conn.py:1106, :2597 and :2894, common/conn.py:967 and :1504 at 0.5.17, which
    name the gap in a comment.
Remove when: upstream defines when the rows of an aborted hand-off are free.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Container
from functools import partial
from typing import Any

LONGEST_S = 10.0
ANSWER = b"ABORT_ACK"
"""First frame of an answer, as Mooncake's has it; the second is the room."""
_TRANSFERS, _ABORTS = "__prefillshare_transfers__", "__prefillshare_aborts__"

Address = tuple[str, int]
"""Host and port at which a decode worker hears answers."""

logger = logging.getLogger(__name__)


class Transfers:
    """A prefill worker's running transfers by room, and who wants to hear of their end."""

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
        for address in asked:
            self._answer(room, address)

    def answer_at_end(self, room: int, address: Address) -> None:
        """Tell `address` when no transfer of the room runs, which may be now."""
        with self._lock:
            if room in self._num_running:
                self._asked.setdefault(room, []).append(address)
                return
        self._answer(room, address)


class WatchedQueue:
    """The queue of one transfer thread, which asks for the next chunk when it is done with the last.

    Chunks of rooms that the worker has forgotten meanwhile are left out; upstream's thread takes them for an error.
    """

    def __init__(self, queue: Any, transfers: Transfers, rooms: Container[int]) -> None:
        self._queue = queue
        self._transfers = transfers
        self._rooms = rooms
        self._room: int | None = None
        self.put = queue.put

    def get(self) -> Any:
        """The next chunk; blocks until there is one."""
        while True:
            if self._room is not None:
                self._transfers.end(self._room)
            chunk = self._queue.get()
            self._room = chunk.room
            self._transfers.begin(chunk.room)
            if chunk.room in self._rooms:
                return chunk


class Aborts:
    """A decode worker's aborted hand-offs that the prefill worker has not answered yet."""

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
            self._open.pop(room, None)
        if num_ranks > 0:
            logger.warning("The prefill worker did not answer an abort within %g s: it counts as gone.", LONGEST_S)
        return False


def wrap_start_heartbeat(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Every decode worker starts this thread; those of NIXL hear answers from now on, too."""

    def _start_heartbeat_checker_thread(self: Any) -> None:
        from sglang.srt.disaggregation.nixl.conn import NixlKVManager

        original(self)
        # With staging buffers, another thread reads this socket.
        if isinstance(self, NixlKVManager) and not self.enable_staging:
            aborts = Aborts()
            setattr(self, _ABORTS, aborts)
            threading.Thread(target=_hear_answers, args=(self.server_socket, aborts), daemon=True).start()

    return _start_heartbeat_checker_thread


def wrap_transfer_worker(original: Callable[..., None]) -> Callable[..., None]:
    def transfer_worker(self: Any, queue: Any, staging_buffer: Any = None) -> None:
        original(self, WatchedQueue(queue, _transfers_of(self), self.transfer_infos), staging_buffer)

    return transfer_worker


def wrap_handle_abort(original: Callable[[Any, list[bytes]], bool]) -> Callable[[Any, list[bytes]], bool]:
    def _handle_abort_notification(self: Any, msg: list[bytes]) -> bool:
        is_abort = original(self, msg)
        if is_abort and len(msg) == 4:
            _, room, host, port = (frame.decode("ascii") for frame in msg)
            _transfers_of(self).answer_at_end(int(room), (host, int(port)))
        return is_abort

    return _handle_abort_notification


def wrap_send_abort(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def _send_abort_notification(self: Any) -> None:
        aborts: Aborts | None = getattr(self.kv_mgr, _ABORTS, None)
        if aborts is not None and self.started_transfer:
            aborts.ask(self.bootstrap_room, len(self.bootstrap_infos))
        original(self)

    return _send_abort_notification


def wrap_poll(original: Callable[[Any], int]) -> Callable[[Any], int]:
    def poll(self: Any) -> int:
        from sglang.srt.disaggregation.base.conn import KVPoll

        status = original(self)
        aborts: Aborts | None = getattr(self.kv_mgr, _ABORTS, None)
        if status != KVPoll.Failed or aborts is None:
            return status
        self.kv_mgr.update_transfer_status()
        if aborts.is_open(self.bootstrap_room):
            waiting: int = KVPoll.WaitingForInput
            return waiting
        self.kv_mgr.transfer_statuses.pop(self.bootstrap_room, None)
        return status

    return poll


def _transfers_of(manager: Any) -> Transfers:
    transfers: Transfers = vars(manager).setdefault(_TRANSFERS, Transfers(partial(_answer, manager)))
    return transfers


def _answer(manager: Any, room: int, address: Address) -> None:
    import zmq
    from sglang.srt.utils.network import NetworkAddress

    there = NetworkAddress(*address)
    try:
        manager._send_multipart_locked(there.to_tcp(), [ANSWER, str(room).encode()], is_ipv6=there.is_ipv6)
    except zmq.ZMQError as error:
        logger.warning("The decode worker at %s:%d cannot be told that an abort is done: %s", *address, error)


def _hear_answers(socket: Any, aborts: Aborts) -> None:
    while True:
        match socket.recv_multipart():
            case [first, room] if first == ANSWER and room.isdigit():
                aborts.answered(int(room))
            case message:
                logger.warning("A message that nobody expects came to the hand-off port: %.40r", message[0])
