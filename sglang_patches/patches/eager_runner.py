"""A batch with second rows is computed where it lies.

Target: ``sglang.srt.model_executor.runner.eager_runner.EagerRunner.load_batch``
Why: it copies a batch into buffers that are sized for as many rows as there may be requests.
How: such a batch was made for this pass alone (:mod:`sglang_patches.icarus.rows`), so nothing else changes its tensors
    and no copy is needed; upstream has the same way for all batches, ``SGLANG_EAGER_INPUT_NO_COPY``. A method patch:
    other modules take the class from its package.
Upstream: sglang/srt/model_executor/runner/eager_runner.py:150 at 0.5.17.
Remove when: upstream can compute a token with several adapters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.runner import EagerRunner

Load = Callable[..., "ForwardBatch"]


@wraps_upstream(
    "model_executor.runner.eager_runner:EagerRunner.load_batch",
    "13971325b23ba815",
    "more rows than requests would not fit its buffers",
)
def wrap_load_batch(original: Load) -> Load:
    from sglang_patches.icarus.rows import PairedForwardBatch

    def load_batch(self: EagerRunner, forward_batch: ForwardBatch, *given: Any, **options: Any) -> ForwardBatch:
        if isinstance(forward_batch, PairedForwardBatch):
            return forward_batch
        return original(self, forward_batch, *given, **options)

    return load_batch
