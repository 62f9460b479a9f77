"""Second rows by the attention backend ``flashinfer``.

Extends ``sglang.srt.layers.attention.flashinfer_backend.FlashInferAttnBackend``; made by
:mod:`sglang_patches.icarus.backends`. Written by reading: it needs a GPU to run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from sglang.srt.layers.attention import flashinfer_backend as upstream

from sglang_patches.icarus.folded import FoldedAttention


class PairedFlashInferAttnBackend(FoldedAttention, upstream.FlashInferAttnBackend):
    """Reads the KV of a request once for both rows.

    A plan without CUDA graphs keeps the tensors that it is given, so each plan of a pass has its own.
    """

    def __init__(self, model_runner: Any, **options: Any) -> None:
        super().__init__(model_runner, **options)
        self._second_kv_indptr = [torch.zeros_like(indptr) for indptr in self.kv_indptr]

    @contextlib.contextmanager
    def twice_the_heads(self) -> Iterator[None]:
        self.indices_updater_decode.num_qo_heads *= 2
        try:
            yield
        finally:
            self.indices_updater_decode.num_qo_heads //= 2

    @contextlib.contextmanager
    def second_buffers(self) -> Iterator[None]:
        first = self.indices_updater_decode.kv_indptr
        self.indices_updater_decode.kv_indptr = self._second_kv_indptr
        try:
            yield
        finally:
            self.indices_updater_decode.kv_indptr = first


_PLAN = "what a step is planned from, and what its kernel is told"

RELIED_ON = {
    "layers.attention.flashinfer_backend:FlashInferAttnBackend.__init__": ("fea340e280a90a1b", _PLAN),
    "layers.attention.flashinfer_backend:FlashInferAttnBackend.init_forward_metadata": ("4bc9dfc045da093f", _PLAN),
    "layers.attention.flashinfer_backend:FlashInferAttnBackend.forward_decode": ("def015d16b0e9542", _PLAN),
    "layers.attention.flashinfer_backend:FlashInferIndicesUpdaterDecode": ("95c2497448cab745", _PLAN),
    "layers.attention.flashinfer_backend:should_use_tensor_core": ("d2a25ab1641422c0", _PLAN),
}
