"""A process writes KV into the memory of another one, and knows when it must not: two real processes, no engine."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sglang_patches.disaggregation.same_machine import Pool, Pools
from sglang_patches.disaggregation.shared_memory import Offer, PeerMemory, SharedMemory, this_machine
from tests.support.waiting import wait_until

NUM_PAGES, PAGE_BYTES, NUM_BUFFERS = 64, 24, 4
AGENT = "decode"
WAIT_S = 120.0
PEER = f"""
import sys, torch
from sglang_patches.disaggregation.shared_memory import SharedMemory
like = [torch.empty({NUM_PAGES}, {PAGE_BYTES}, dtype=torch.uint8) for _ in range({NUM_BUFFERS})]
memory, buffers = SharedMemory.replace(like)
print(memory.offer().pack().decode(), *(buffer.data_ptr() for buffer in buffers), sep="\\n", flush=True)
for line in sys.stdin:
    print(torch.stack(buffers).numpy().tobytes().hex(), flush=True)
"""


class Peer:
    """A decode worker's process, as far as it matters here."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process = process
        self.offer = Offer.unpack(process.stdout.readline().encode())
        self.addresses = [int(process.stdout.readline()) for _ in range(NUM_BUFFERS)]

    def pages(self) -> torch.Tensor:
        """What the process itself sees: buffer, page, byte."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        seen = bytearray.fromhex(self.process.stdout.readline())
        return torch.frombuffer(seen, dtype=torch.uint8).view(NUM_BUFFERS, NUM_PAGES, PAGE_BYTES)

    def registration(self, **changes: object) -> SimpleNamespace:
        """What it registers at a prefill worker."""
        known = {
            "agent_name": AGENT,
            "dst_kv_ptrs": self.addresses,
            "dst_kv_item_lens": [PAGE_BYTES] * NUM_BUFFERS,
            "dst_kv_layer_ids": [],
            "dst_kv_mem_kinds": ["DRAM"] * NUM_BUFFERS,
            "dst_num_slots": NUM_PAGES,
        }
        return SimpleNamespace(**(known | changes))


@contextmanager
def running_peer() -> Iterator[Peer]:
    with subprocess.Popen(
        [sys.executable, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with running_peer() as peer:
        yield peer


@pytest.fixture
def own() -> list[torch.Tensor]:
    """The prefill worker's buffers, of another number of pages; no two bytes in a row are equal."""
    numbers = torch.arange(NUM_BUFFERS * 2 * NUM_PAGES * PAGE_BYTES) % 251
    return list(numbers.to(torch.uint8).view(NUM_BUFFERS, 2 * NUM_PAGES, PAGE_BYTES))


def described(buffers: list[torch.Tensor]) -> SimpleNamespace:
    return SimpleNamespace(
        kv_data_ptrs=[buffer.data_ptr() for buffer in buffers],
        kv_data_lens=[buffer.nbytes for buffer in buffers],
        kv_item_lens=[PAGE_BYTES] * len(buffers),
        kv_layer_ids=[],
        kv_data_mem_kinds=["DRAM"] * len(buffers),
    )


def open_pool(peer: Peer, own: list[torch.Tensor], offer: bytes | None = None, **changes: object) -> Pool | None:
    pools = Pools()
    pools.offered(AGENT, offer or peer.offer.pack())
    pools.open(peer.registration(**changes), described(own))
    return pools.find(AGENT)


def indices(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (range(98, 128), range(3, 33)),
        ([*range(20), *range(90, 110)], [*range(40, 60), *range(20)]),
        ([7, 3, 127, 0, 1, 2], [63, 0, 31, 5, 9, 10]),
        ([5], [6]),
        ([], []),
    ],
    ids=["one run", "two runs", "scattered", "one page", "nothing"],
)
def test_pages_arrive_in_all_layers_and_nothing_else_changes(peer, own, source, target):
    pool = open_pool(peer, own)
    assert pool is not None
    expected = peer.pages()
    for before, now in zip(expected, own, strict=True):
        before[list(target)] = now[list(source)]
    pool.write(indices(*source), indices(*target))
    assert torch.equal(peer.pages(), expected)


@pytest.mark.parametrize(
    ("source", "target"),
    [([0], [NUM_PAGES]), ([2 * NUM_PAGES], [0]), ([-1], [0]), ([0], [-1]), (range(8), range(60, 68))],
)
def test_a_page_that_does_not_exist_is_refused_before_anything_is_written(peer, own, source, target):
    pool = open_pool(peer, own)
    assert pool is not None
    before = peer.pages()
    with pytest.raises(IndexError, match="of a pool of"):
        pool.write(indices(*source), indices(*target))
    assert torch.equal(peer.pages(), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"dst_kv_item_lens": [2 * PAGE_BYTES] * NUM_BUFFERS},
        {"dst_kv_layer_ids": [0, 1]},
        {"dst_num_slots": 10 * NUM_PAGES},
        {"dst_num_slots": None},
        {"dst_kv_ptrs": [1, 2, 3, 4]},
        {"dst_kv_mem_kinds": ["VRAM"] * NUM_BUFFERS},
        {"agent_name": "another"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_not_fit_goes_by_the_transport(peer, own, changes):
    assert open_pool(peer, own, **changes) is None


@pytest.mark.parametrize("offer", [b"", b"[]", b"{}", b"\xff", b'{"pid": 1}'])
def test_what_is_no_offer_goes_by_the_transport(peer, own, offer):
    assert open_pool(peer, own, offer=offer or b"-") is None


def test_another_machine_or_namespace_is_not_reached(peer):
    with pytest.raises(OSError, match="another machine"):
        PeerMemory(dataclasses.replace(peer.offer, machine="elsewhere"))


def test_a_file_that_took_the_place_of_another_is_not_written(peer):
    with pytest.raises(OSError, match="is gone"):
        PeerMemory(dataclasses.replace(peer.offer, inode=peer.offer.inode + 1))


def test_memory_that_could_become_shorter_is_not_mapped():
    file = os.memfd_create("plain")
    os.ftruncate(file, 4096)
    offer = Offer(
        machine=this_machine(),
        pid=os.getpid(),
        descriptor=file,
        inode=os.fstat(file).st_ino,
        address=0,
        num_bytes=4096,
    )
    with pytest.raises(OSError, match="shorter"):
        PeerMemory(offer)
    os.close(file)


def test_nobody_can_make_it_shorter():
    memory = SharedMemory(4096)
    with open(f"/proc/self/fd/{memory.offer().descriptor}", "r+b") as file, pytest.raises(PermissionError):
        file.truncate(0)


def test_buffers_keep_shape_and_type_and_do_not_overlap():
    like = [torch.empty(3, 5, 7), torch.empty(2, dtype=torch.bfloat16), torch.empty(4, 1, dtype=torch.int64)]
    _, buffers = SharedMemory.replace(like)
    assert [(buffer.shape, buffer.dtype) for buffer in buffers] == [(buffer.shape, buffer.dtype) for buffer in like]
    for number, buffer in enumerate(buffers, start=1):
        assert not buffer.any()
        buffer.fill_(number)
    assert [buffer.unique().tolist() for buffer in buffers] == [[1], [2], [3]]


def test_a_worker_that_has_died_is_forgotten_and_its_memory_given_back(own):
    pools = Pools()
    with running_peer() as peer:
        pools.offered(AGENT, peer.offer.pack())
        pools.open(peer.registration(), described(own))
        assert pools.find(AGENT) is not None
        assert is_mapped(peer)
        peer.process.kill()
        wait_until(lambda: pools.find(AGENT) is None)
        wait_until(lambda: not is_mapped(peer))
        with pytest.raises(OSError, match="No such"):
            PeerMemory(peer.offer)


def is_mapped(peer: Peer) -> bool:
    """Whether its memory is mapped here."""
    with open("/proc/self/maps") as maps:
        # A file of another kind may have the same number.
        return any(int(line.split()[4]) == peer.offer.inode for line in maps if "/memfd:" in line)
