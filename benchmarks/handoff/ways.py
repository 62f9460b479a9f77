"""Two processes with the memory of a prefill and a decode worker, and both ways from one to the other."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sglang_patches.disaggregation.same_machine import Pool
from sglang_patches.disaggregation.shared_memory import Offer, PeerMemory, SharedMemory

PREFILL, DECODE = "prefill", "decode"
ARRIVED, LAST = b"arrived", b"last"
"""What is told of the KV, and of the small metadata that goes behind it over NIXL, whichever way the KV goes."""
METADATA_BYTES = 1024
MEMORY, NIXL = "memory", "nixl"

Move = Callable[[np.ndarray, np.ndarray], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The KV of a model, float32."""

    num_layers: int
    num_heads: int
    head_dim: int

    def buffers(self, num_pages: int, page_tokens: int) -> list[torch.Tensor]:
        """Keys of all layers, then values."""
        shape = (num_pages, page_tokens * self.num_heads * self.head_dim)
        return [torch.ones(shape) for _ in range(2 * self.num_layers)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """What one took."""

    wall_s: float
    """From the start to when the decode worker knows that all is there."""
    cpu_s: float
    """CPU seconds of the prefill worker."""


@contextmanager
def two_workers(shape: Shape, num_pages: int, page_tokens: int) -> Iterator[Callable[[str, Any, Any], Handoff]]:
    """Hand pages over: way, their numbers here and there."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    decode = context.Process(target=_run_decode_worker, args=(there, shape, num_pages, page_tokens))
    decode.start()
    try:
        # Kept until the end: both ways know nothing but addresses of it.
        buffers = shape.buffers(num_pages, page_tokens)
        ways = _connect(here, buffers, num_pages)

        def hand_over(way: str, source: np.ndarray, target: np.ndarray) -> Handoff:
            started, cpu_before = time.perf_counter(), time.process_time()
            ways[way](source, target)
            cpu_s = time.process_time() - cpu_before
            arrived: float = here.recv()
            return Handoff(wall_s=arrived - started, cpu_s=cpu_s)

        yield hand_over
    finally:
        here.send(None)
        decode.join()


def _run_decode_worker(prefill: Connection, shape: Shape, num_pages: int, page_tokens: int) -> None:
    memory, buffers = SharedMemory.replace(shape.buffers(num_pages, page_tokens))
    metadata = torch.zeros(METADATA_BYTES, dtype=torch.uint8)
    agent = _make_agent(DECODE, [*buffers, metadata])
    addresses = [buffer.data_ptr() for buffer in (*buffers, metadata)]
    prefill.send((agent.get_agent_metadata(), memory.offer().pack(), addresses))
    seen: set[bytes] = set()
    while not prefill.poll():
        # As a decode worker does: it looks, again and again.
        for words in agent.get_new_notifs().values():
            seen.update(words)
        if {ARRIVED, LAST} <= seen:
            prefill.send(time.perf_counter())
            seen.clear()


def _connect(decode: Connection, buffers: list[torch.Tensor], num_pages: int) -> dict[str, Move]:
    metadata = torch.zeros(METADATA_BYTES, dtype=torch.uint8)
    agent = _make_agent(PREFILL, [*buffers, metadata])
    agent_metadata, offer, (*addresses, their_metadata) = decode.recv()
    agent.add_remote_agent(agent_metadata)
    row_bytes = buffers[0][0].nbytes
    peer = SimpleNamespace(
        dst_kv_ptrs=addresses,
        dst_kv_item_lens=[row_bytes] * len(buffers),
        dst_kv_layer_ids=[],
        dst_kv_mem_kinds=["DRAM"] * len(buffers),
        dst_num_slots=num_pages,
    )
    own = SimpleNamespace(
        kv_data_ptrs=[buffer.data_ptr() for buffer in buffers],
        kv_data_lens=[buffer.nbytes for buffer in buffers],
        kv_item_lens=[row_bytes] * len(buffers),
        kv_layer_ids=[],
        kv_data_mem_kinds=["DRAM"] * len(buffers),
    )
    pool = Pool.of(PeerMemory(Offer.unpack(offer)), peer, own)  # type: ignore[arg-type]
    lists = [
        _descriptors(agent, name, ptrs, num_pages, row_bytes)
        for name, ptrs in (("", own.kv_data_ptrs), (DECODE, addresses))
    ]
    firsts = np.arange(len(buffers), dtype=np.int32)[:, None] * num_pages

    def send_metadata(*transfers: Any) -> None:
        here, there = (
            agent.get_xfer_descs([(address, METADATA_BYTES, 0)], "DRAM")
            for address in (metadata.data_ptr(), their_metadata)
        )
        last = agent.initialize_xfer("WRITE", here, there, DECODE, LAST)
        agent.transfer(last)
        while any(agent.check_xfer_state(transfer) != "DONE" for transfer in (*transfers, last)):
            time.sleep(0)

    def by_memory(source: np.ndarray, target: np.ndarray) -> None:
        pool.write(source, target)
        agent.send_notif(DECODE, ARRIVED)
        send_metadata()

    def by_nixl(source: np.ndarray, target: np.ndarray) -> None:
        # As SGLang's sender does.
        ours, theirs = ((firsts + pages).ravel().astype(np.int32) for pages in (source, target))
        transfer = agent.make_prepped_xfer("WRITE", lists[0], ours, lists[1], theirs, ARRIVED)
        agent.transfer(transfer)
        send_metadata(transfer)

    return {MEMORY: by_memory, NIXL: by_nixl}


def _descriptors(agent: Any, name: str, addresses: list[int], num_pages: int, row_bytes: int) -> Any:
    offsets = np.arange(num_pages, dtype=np.uint64) * np.uint64(row_bytes)
    rows = [(np.uint64(address) + offsets)[:, None] for address in addresses]
    columns = np.concatenate(rows)
    length = np.full_like(columns, row_bytes)
    return agent.prep_xfer_dlist(name, np.hstack([columns, length, np.zeros_like(columns)]), "DRAM")


def _make_agent(name: str, buffers: list[torch.Tensor]) -> Any:
    """An agent as workers without a GPU have it (sglang_patches/cpu/nixl_memory.py)."""
    from nixl._api import nixl_agent, nixl_agent_config, nixl_thread_sync_t

    config = nixl_agent_config(backends=[], num_threads=0, sync_mode=nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT)
    config.enable_pthread = False
    agent = nixl_agent(name, config)
    agent.create_backend("UCX", {})
    agent.register_memory([(buffer.data_ptr(), buffer.nbytes, 0, "") for buffer in buffers], "DRAM")
    return agent
