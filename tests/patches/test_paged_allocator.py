"""Page allocation in PyTorch against upstream's own sequential version."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator, alloc_extend_naive

from sglang_patches.cpu.paged_allocator import TorchPagedAllocator

NUM_PAGES = 200


def make_allocator(page_size):
    return TorchPagedAllocator(
        NUM_PAGES * page_size, page_size=page_size, dtype=torch.float32, device="cpu", kvcache=None, need_sort=False
    )


def upstream_extend(allocator, prefix_lens, seq_lens, last_loc):
    total = int((seq_lens - prefix_lens).sum())
    slots = torch.empty(total, dtype=torch.int64)
    alloc_extend_naive(prefix_lens, seq_lens, last_loc, allocator.free_pages, slots, allocator.page_size, "cpu")
    return slots


@settings(deadline=None)
@given(
    st.sampled_from([1, 2, 16]),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=4),
)
def test_extend_takes_the_slots_that_upstream_takes(page_size, lens):
    allocator = make_allocator(page_size)
    prefix_lens = torch.tensor([p for p, _ in lens])
    seq_lens = prefix_lens + torch.tensor([e for _, e in lens])
    # The slot before a request's first new one, somewhere in a page of its own.
    last_loc = (900 + torch.arange(len(lens))) * page_size + (prefix_lens - 1) % page_size
    expected = upstream_extend(allocator, prefix_lens, seq_lens, last_loc)
    num_free = len(allocator.free_pages)

    slots = allocator.alloc_extend(prefix_lens, prefix_lens, seq_lens, seq_lens, last_loc, len(expected))

    num_pages = int((-(-seq_lens // page_size) - -(-prefix_lens // page_size)).sum())
    assert slots.tolist() == expected.tolist()
    assert len(allocator.free_pages) == num_free - num_pages


def test_a_new_request_of_one_token_and_a_full_pool():
    allocator = make_allocator(16)
    zero, one = torch.tensor([0]), torch.tensor([1])
    assert allocator.alloc_extend(zero, zero, one, one, torch.tensor([-1]), 1).tolist() == [16]
    allocator.alloc((NUM_PAGES - 1) * 16)
    assert allocator.alloc_extend(zero, zero, one, one, torch.tensor([-1]), 1) is None


def test_decode_continues_a_page_or_opens_the_next_free_one():
    allocator = make_allocator(4)
    seq_lens = torch.tensor([6, 5, 9])  # position 5 continues; 4 and 8 open a page
    slots = allocator.alloc_decode(seq_lens, seq_lens, torch.tensor([101, 203, 307]))
    assert slots.tolist() == [102, 4, 8]
    assert len(allocator.free_pages) == NUM_PAGES - 2


def test_decode_says_when_the_pool_is_empty():
    allocator = make_allocator(1)
    allocator.alloc(NUM_PAGES)
    seq_lens = torch.tensor([3])
    assert allocator.alloc_decode(seq_lens, seq_lens, torch.tensor([7])) is None


def test_it_stays_a_page_allocator_of_upstream():
    assert issubclass(TorchPagedAllocator, PagedTokenToKVPoolAllocator)
