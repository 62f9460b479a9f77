"""NIXL's side of a hand-off: its ends are heard, its aborts answered, and nobody waits for ever.

Target: ``sglang.srt.disaggregation.nixl.conn``: ``NixlKVManager``, ``NixlKVSender``, ``NixlKVReceiver``
Why: workers on one machine would move KV through the kernel, page by page; the prefill worker can write it where it is
    read. A decode worker gives the rows of an aborted call back at once, while the prefill worker may still be writing
    to them: a running answer that gets such a row for its next token is spoiled, and nothing tells. And it no longer
    looks after its connection, so that a transfer which needs both sides, and all behind it, may never end. A prefill
    worker whose decode worker never says where the KV shall go waits for ever; Mooncake's sender gives up after
    ``SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT`` seconds. And the one thread that hears its decode workers ends at the
    first message that it cannot use.
How: a decode worker whose KV pool lies in shared memory says so when it registers, and a prefill worker that can map it
    copies (:mod:`sglang_patches.disaggregation.same_machine`). What goes with the KV, and the word that it is there,
    are sent as ever.
    The prefill worker answers an abort when no transfer of that room runs; none begins later, because the room has
    failed by then. Both sides keep count in :mod:`sglang_patches.disaggregation.aborts`. The decode worker's queue,
    which frees the rows of a failed hand-off, hears of the failure when every answer is there; until then the
    connection is looked after. The listener is kept alive (:mod:`sglang_patches.disaggregation.listener`), and the
    sender looks at the clock that upstream has.
    Other transports keep their classes: heartbeat and abort notification are upstream's common ones, which Mooncake
    shares, and are overridden here for NIXL alone.
Upstream: sglang/srt/disaggregation/nixl/conn.py and common/conn.py at 0.5.17, which name the gap in a comment.
Remove when: upstream defines when the rows of an aborted hand-off are free, and its NIXL sender has the timeout.

What must come in which order, for a call that the decode worker aborts while its KV arrives:

    decode worker                                       prefill worker
    abort(): room failed, Aborts.ask(room)
    ABORT, room, address           ---------------->    room failed: no new transfer of it begins
    poll(): not failed yet, rows kept                   transfer that runs goes on writing to the rows
    update_transfer_status()       <--------------->    it ends
    Aborts.answered(room)          <----------------    ABORT_ACK, room
    poll(): failed, rows freed
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import zmq
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.nixl import conn as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.disaggregation.aborts import Aborts, Transfers, WatchedQueue, hear_answers, send_answer
from sglang_patches.disaggregation.listener import keep_listening
from sglang_patches.disaggregation.same_machine import OFFER, Pools

if TYPE_CHECKING:
    from sglang_patches.disaggregation.shared_memory import SharedMemory

_SPOILED = "an aborted hand-off would be written over a running answer"
_WAITS = "a hand-off that nobody asks for would wait for ever"
_COPIED = "KV would be moved through the kernel to a worker that has its memory here"
_STICKY = "nothing of an aborted room is sent"


logger = logging.getLogger(__name__)


@binds("disaggregation.nixl.conn:NixlKVManager", at=("disaggregation.nixl",))
class NixlKVManager(upstream.NixlKVManager):
    """One rank's end of all hand-offs; a prefill worker tells when it no longer writes, a decode worker waits for that.

    Its methods are called by the scheduler's thread, by one listener and by several transfer threads.
    """

    aborts: Aborts | None = None
    """A decode worker's; None on a prefill worker, and where nobody can hear answers."""

    shared_memory: SharedMemory | None = None
    """A decode worker's, in which its KV pool lies; None where that is private, or on a GPU."""

    @property
    def pools(self) -> Pools:
        """A prefill worker's: those of decode workers that it writes to itself."""
        known: Pools = self.__dict__.setdefault("_pools", Pools())
        return known

    @property
    def transfers(self) -> Transfers:
        """A prefill worker's; made by whoever comes first."""
        # The constructor of upstream starts the threads that come here, so it cannot be made after it; and one step of
        # a dictionary decides between two of them.
        known: Transfers = self.__dict__.setdefault("_transfers", Transfers(partial(send_answer, self)))
        return known

    @overrides(
        "ea3235b0c6c2d271",
        "nobody would hear that an aborted hand-off is over",
        of="disaggregation.common.conn:CommonKVManager._start_heartbeat_checker_thread",
    )
    def _start_heartbeat_checker_thread(self) -> None:
        """Every decode worker starts this thread, and no prefill worker does."""
        super()._start_heartbeat_checker_thread()
        # With staging buffers, another thread reads this socket: two readers would take each other's messages.
        if not self.enable_staging:
            self.aborts = Aborts()
            threading.Thread(target=hear_answers, args=(self.server_socket, self.aborts), daemon=True).start()

    @overrides("346efe2c871d77b8", "one bad message would end every later hand-off")
    def _start_bootstrap_thread(self) -> None:
        keep_listening(super()._start_bootstrap_thread)

    @overrides("7a2338dc23d03512", _SPOILED)
    def transfer_worker(self, queue: Any, staging_buffer: Any = None) -> None:
        super().transfer_worker(WatchedQueue(queue, self.transfers, self.transfer_infos), staging_buffer)

    @overrides("1c6485c1f6508564", _SPOILED)
    def _handle_abort_notification(self, msg: list[bytes]) -> bool:
        # Upstream's listener comes here with each message, before it takes it for a registration.
        if msg and msg[0] == OFFER and len(msg) == 3:
            self.pools.offered(msg[1].decode("ascii"), msg[2])
            return True
        # Upstream first marks the room as failed; an answer before that could be followed by a new transfer.
        is_abort: bool = super()._handle_abort_notification(msg)
        if is_abort and len(msg) == 4:
            _, room, host, port = (frame.decode("ascii") for frame in msg)
            self.transfers.answer_at_end(int(room), (host, int(port)))
        return is_abort

    @overrides("dde5b5994813d084", _COPIED)
    def _add_remote_peer(self, decode_kv_args: upstream.KVArgsRegisterInfo) -> None:
        super()._add_remote_peer(decode_kv_args)
        self.pools.open(decode_kv_args, self.kv_args)

    @overrides("85dff5e8b69f2881", _COPIED)
    def send_kvcache(
        self,
        peer_name: str,
        prefill_kv_indices: Any,
        dst_kv_ptrs: list[int],
        dst_kv_indices: Any,
        dst_gpu_id: int,
        notif: str,
        **options: Any,
    ) -> Any:
        """Returns: what upstream waits for; None when the KV is there."""
        pool = self.pools.find(peer_name)
        if pool is None:
            return super().send_kvcache(
                peer_name, prefill_kv_indices, dst_kv_ptrs, dst_kv_indices, dst_gpu_id, notif, **options
            )
        pool.write(prefill_kv_indices, dst_kv_indices)
        # Only now: the decode worker reads the rows when it has this. Nobody waits for the end of this message; that
        # of the last chunk leaves before what upstream sends after it over the same connection, and waits for.
        self.agent.send_notif(peer_name, notif.encode("ascii"))
        return None


@binds("disaggregation.nixl.conn:NixlKVSender", at=("disaggregation.nixl",))
class NixlKVSender(upstream.NixlKVSender):
    """A prefill worker's end of one hand-off, which gives up when nobody asks for it."""

    @overrides("6f8163e7ca3be690", _WAITS)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The clock of upstream's own timeout, which only its other transports start.
        self.init_time = time.time()

    goes_by_memory = False
    """Whether the KV is written right into the decode worker's memory."""

    @overrides("72edece709b8b21e", "nobody would know which way KV goes")
    def send(self, *args: Any, **kwargs: Any) -> None:
        # Upstream forgets the room's receivers at the end; and a pool is only forgotten when its owner has ended.
        receivers = self.kv_mgr.transfer_infos.get(self.bootstrap_room)
        if receivers:
            self.goes_by_memory = all(self.kv_mgr.pools.find(agent) is not None for agent in list(receivers))
        super().send(*args, **kwargs)

    @overrides("c83e8232c0ab7b41", _WAITS)
    def poll(self) -> KVPoll:
        status = super().poll()
        if status == KVPoll.Bootstrapping:
            timed_out: KVPoll | None = self._check_bootstrap_timeout()
            return status if timed_out is None else timed_out
        return status


@binds("disaggregation.nixl.conn:NixlKVReceiver", at=("disaggregation.nixl",))
class NixlKVReceiver(upstream.NixlKVReceiver):
    """A decode worker's end of one hand-off, which has failed only when its rows are no longer written to."""

    @overrides("c8fb1baafbdb294a", _COPIED)
    def _register_kv_args(self) -> bool:
        if self.kv_mgr.shared_memory is not None:
            self._offer_memory(self.kv_mgr.shared_memory)
        return bool(super()._register_kv_args())

    def _offer_memory(self, memory: SharedMemory) -> None:
        try:
            offer = memory.offer().pack()
        except OSError as error:
            logger.warning("KV comes by NIXL: this system does not say which machine it is: %s", error)
            return
        message = [OFFER, self.kv_mgr.agent.name.encode("ascii"), offer]
        for bootstrap_info in self.bootstrap_infos:
            # The socket on which the registration follows, so it comes first there, too.
            socket, lock = self._connect_to_bootstrap_server(bootstrap_info)
            try:
                with lock:
                    socket.send_multipart(message)
            except zmq.ZMQError as error:
                # The registration that follows meets the same fault, and tells the call of it.
                logger.warning("A prefill worker cannot be told where KV lies: %s", error)

    @overrides(
        "23f402c9a5e58dea",
        _SPOILED,
        of="disaggregation.common.conn:CommonKVReceiver._send_abort_notification",
    )
    def _send_abort_notification(self) -> None:
        aborts = self.kv_mgr.aborts
        # Before anything was asked for, nobody writes. And it is noted before it is sent: the answer may be quick.
        if aborts is not None and self.started_transfer:
            aborts.ask(self.bootstrap_room, len(self.bootstrap_infos))
        super()._send_abort_notification()

    @overrides("4cffb7de2800cc5f", _SPOILED)
    def poll(self) -> KVPoll:
        status = super().poll()
        aborts = self.kv_mgr.aborts
        if status != KVPoll.Failed or aborts is None:
            return status
        # Upstream no longer looks after the connection of a failed room, and a transfer under way needs both sides.
        self.kv_mgr.update_transfer_status()
        if aborts.is_open(self.bootstrap_room):
            return KVPoll.WaitingForInput
        self.kv_mgr.transfer_statuses.pop(self.bootstrap_room, None)
        return status


RELIED_ON = {
    "disaggregation.nixl.conn:NixlKVManager.check_status": ("a943a0bead1e5063", _STICKY),
    "disaggregation.nixl.conn:NixlKVManager.update_status": ("c30da0c9d1e99b68", _STICKY),
}
