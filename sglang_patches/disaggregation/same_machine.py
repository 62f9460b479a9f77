"""A prefill worker writes KV into the pools of decode workers on its own machine.

What is told in which order, for one decode worker (:mod:`sglang_patches.engine.nixl`):

    decode worker                                    prefill worker
    KV pool in shared memory (patches/kv_buffers)
    first call for this prefill worker
      SHARED_KV, agent, offer       ------------>    Pools.offered
      registration of its KV        ------------>    Pools.open: mapped, or left to the transport, with the reason
    each call: pages                ------------>    Pool.write, then the same message as after a transfer
    it ends                                          mapping dropped; its successor has another name and offer

A copy has ended when ``write`` returns, so the rows of an aborted call are no longer written to when the transfer
thread says so (:mod:`sglang_patches.disaggregation.aborts`), as after a transfer.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sglang_patches.disaggregation.shared_memory import Offer, Pages, PeerMemory, as_pages

if TYPE_CHECKING:
    import numpy.typing as npt
    from sglang.srt.disaggregation.base.conn import KVArgs
    from sglang.srt.disaggregation.nixl.conn import KVArgsRegisterInfo

    Indices = npt.NDArray[np.int32]

OFFER = b"SHARED_KV"
"""First frame of an offer; the second is the name of the decode worker's agent, the third the offer."""
FEWEST_PAGES_PER_RUN = 8
"""Pages that follow each other on both sides, on average, from which on they are copied run by run."""

logger = logging.getLogger(__name__)


class Pools:
    """The KV pools of decode workers on this machine, by the names of their agents.

    The listener offers and opens, transfer threads and the scheduler look; one step of a dictionary each.
    """

    def __init__(self) -> None:
        self._offers: dict[str, bytes] = {}
        self._pools: dict[str, Pool] = {}

    def offered(self, agent: str, offer: bytes) -> None:
        """A decode worker said where its memory is, just before it registers."""
        self._offers[agent] = offer

    def open(self, peer: KVArgsRegisterInfo, own: KVArgs) -> None:
        """The decode worker registered: map its pool if it offered it and it can be reached."""
        offer = self._offers.pop(peer.agent_name, None)
        if offer is None:
            return
        try:
            memory = PeerMemory(Offer.unpack(offer))
        except (OSError, ValueError) as error:
            logger.info("KV for decode worker %s goes by NIXL: %s", peer.agent_name, error)
            return
        # In any case: it closes what was opened when the decode worker ends.
        threading.Thread(target=self._forget_at_end, args=(peer.agent_name, memory), daemon=True).start()
        try:
            self._pools[peer.agent_name] = Pool.of(memory, peer, own)
        except OSError as error:
            logger.info("KV for decode worker %s goes by NIXL: %s", peer.agent_name, error)
        else:
            logger.info("KV for decode worker %s goes by shared memory", peer.agent_name)

    def find(self, agent: str) -> Pool | None:
        """The decode worker's pool; None for one that is reached by the transport."""
        return self._pools.get(agent)

    def _forget_at_end(self, agent: str, memory: PeerMemory) -> None:
        # Its memory would stay taken for as long as it is mapped here. A copy that runs keeps it until its end.
        memory.wait_for_end()
        self._pools.pop(agent, None)


class Pool:
    """Keys and values of all layers on both sides.

    Copied by numpy: torch would start threads of its own for each transfer thread that copies.
    """

    def __init__(self, source: Sequence[Pages], target: Sequence[Pages]) -> None:
        self._source = source
        self._target = target

    @classmethod
    def of(cls, memory: PeerMemory, peer: KVArgsRegisterInfo, own: KVArgs) -> Pool:
        """Raises: OSError when the two sides do not match buffer by buffer."""
        if list(peer.dst_kv_item_lens) != list(own.kv_item_lens) or list(peer.dst_kv_layer_ids) != own.kv_layer_ids:
            raise OSError("its buffers of KV are not as those here")
        if peer.dst_num_slots is None or set(peer.dst_kv_mem_kinds) | set(own.kv_data_mem_kinds) != {"DRAM"}:
            raise OSError("KV is not in the memory of the host")
        own_buffers = zip(own.kv_data_ptrs, own.kv_data_lens, own.kv_item_lens, strict=True)
        peer_buffers = zip(peer.dst_kv_ptrs, peer.dst_kv_item_lens, strict=True)
        return cls(
            [_pages_here(address, num_bytes, page_bytes) for address, num_bytes, page_bytes in own_buffers],
            [memory.pages_at(address, peer.dst_num_slots, page_bytes) for address, page_bytes in peer_buffers],
        )

    def write(self, source: Indices, target: Indices) -> None:
        """Copy pages to pages, of all layers; outside of the GIL but for a few steps.

        Raises: IndexError when one does not exist.
        """
        if len(target) == 0:
            return
        # A slice beyond the end would be cut, and what remains of it be repeated.
        for pages, pool in ((source, self._source[0]), (target, self._target[0])):
            if pages.min() < 0 or pages.max() >= len(pool):
                raise IndexError(f"pages {pages.min()} to {pages.max()} of a pool of {len(pool)}")
        starts = _run_starts(source, target)
        if len(starts) * FEWEST_PAGES_PER_RUN > len(source):
            for here, there in zip(self._source, self._target, strict=True):
                there[target] = here[source]
            return
        for start, end in zip(starts, [*starts[1:], len(source)], strict=True):
            read, write, length = int(source[start]), int(target[start]), end - start
            for here, there in zip(self._source, self._target, strict=True):
                there[write : write + length] = here[read : read + length]


def _run_starts(source: Indices, target: Indices) -> list[int]:
    """Where pages begin that follow each other on both sides."""
    is_break = (np.diff(source) != 1) | (np.diff(target) != 1)
    return [0, *(np.flatnonzero(is_break) + 1).tolist()]


def _pages_here(address: int, num_bytes: int, page_bytes: int) -> Pages:
    """The buffer of this process' own pool, which lives as long as the process."""
    buffer = (ctypes.c_uint8 * num_bytes).from_address(address)
    return as_pages(np.frombuffer(memoryview(buffer), dtype=np.uint8), page_bytes)
