"""Second rows by the attention backend ``triton``.

Extends ``sglang.srt.layers.attention.triton_backend.TritonAttnBackend``; made by :mod:`sglang_patches.icarus.backends`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from sglang.srt.layers.attention import triton_backend as upstream

from sglang_patches.icarus.folded import FoldedAttention


class PairedTritonAttnBackend(FoldedAttention, upstream.TritonAttnBackend):
    """Reads the KV of a request once for both rows."""

    kv_indptr: torch.Tensor

    def __init__(self, model_runner: Any, **options: Any) -> None:
        super().__init__(model_runner, **options)
        self._second_kv_indptr = torch.zeros_like(self.kv_indptr)

    @contextlib.contextmanager
    def twice_the_heads(self) -> Iterator[None]:
        self.num_head *= 2
        try:
            yield
        finally:
            self.num_head //= 2

    @contextlib.contextmanager
    def second_buffers(self) -> Iterator[None]:
        first = self.kv_indptr
        self.kv_indptr = self._second_kv_indptr
        try:
            yield
        finally:
            self.kv_indptr = first


_PLAN = "what a step is planned from, and what its kernel is told"

RELIED_ON = {
    "layers.attention.triton_backend:TritonAttnBackend.__init__": ("2eb00d59da1ec528", _PLAN),
    "layers.attention.triton_backend:TritonAttnBackend.init_forward_metadata": ("2614b39b6d41aeb9", _PLAN),
    "layers.attention.triton_backend:TritonAttnBackend.forward_decode": ("6d1c1868422f132d", _PLAN),
    "layers.attention.triton_backend:TritonAttnBackend.forward_extend": ("db24463d679cf0ef", _PLAN),
}
