"""KV page allocation in PyTorch, for devices on which Triton does not run.

Upstream: ``sglang/srt/mem_cache/allocator/paged.py:197,238`` at 0.5.17 launches
Triton kernels for every page size above 1. A subclass suffices: the platform
chooses the allocator class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator

if TYPE_CHECKING:
    from torch import Tensor


def _ceil_div(value: Tensor, divisor: int) -> Tensor:
    return (value + divisor - 1) // divisor


class TorchPagedAllocator(PagedTokenToKVPoolAllocator):
    """Same contract as its base class, with the two kernels as tensor algebra."""

    free_pages: Tensor

    def alloc_extend(
        self,
        prefix_lens: Tensor,
        prefix_lens_cpu: Tensor,
        seq_lens: Tensor,
        seq_lens_cpu: Tensor,
        last_loc: Tensor,
        extend_num_tokens: int,
        num_new_pages: int | None = None,
    ) -> Tensor | None:
        """Slots for positions ``prefix_lens[i] .. seq_lens[i]-1`` of each request.

        Shapes: all ``*_lens`` and ``last_loc`` (num_reqs,); result
        (extend_num_tokens,) int64, requests one after another. None when the
        pool has too few free pages.
        """
        new_pages = _ceil_div(seq_lens, self.page_size) - _ceil_div(prefix_lens, self.page_size)
        pages = self._take_pages(int(new_pages.sum()))
        if pages is None:
            return None
        extend_lens = seq_lens - prefix_lens
        starts = torch.cumsum(extend_lens, 0) - extend_lens
        step = torch.arange(extend_num_tokens) - starts.repeat_interleave(extend_lens)
        position = step + prefix_lens.repeat_interleave(extend_lens)

        # A request's tokens first fill the page that its prefix left open; the
        # page after that one is its page 0 of the newly taken ones.
        first_new = _ceil_div(prefix_lens, self.page_size)
        nth_page = position // self.page_size - first_new.repeat_interleave(extend_lens)
        page_base = torch.cumsum(new_pages, 0) - new_pages
        page_index = page_base.repeat_interleave(extend_lens) + nth_page.clamp(min=0)
        in_new_page = nth_page >= 0
        slots = last_loc.repeat_interleave(extend_lens) + 1 + step
        new_slots = pages[page_index[in_new_page]] * self.page_size
        slots[in_new_page] = new_slots + position[in_new_page] % self.page_size
        return slots.to(torch.int64)

    def alloc_decode(self, seq_lens: Tensor, seq_lens_cpu: Tensor, last_loc: Tensor) -> Tensor | None:
        """One slot for position ``seq_lens[i]-1`` of each request.

        Shapes: ``seq_lens`` and ``last_loc`` (num_reqs,); result (num_reqs,)
        int64. None when the pool has too few free pages.
        """
        opens_page = (seq_lens - 1) % self.page_size == 0
        pages = self._take_pages(int(opens_page.sum()))
        if pages is None:
            return None
        slots = last_loc.to(torch.int64) + 1
        slots[opens_page] = pages * self.page_size
        return slots

    def _take_pages(self, num_pages: int) -> Tensor | None:
        if self.need_sort and num_pages > len(self.free_pages):
            self.merge_and_sort_free()
        if num_pages > len(self.free_pages):
            return None
        taken, self.free_pages = (
            self.free_pages[:num_pages],
            self.free_pages[num_pages:],
        )
        return taken
