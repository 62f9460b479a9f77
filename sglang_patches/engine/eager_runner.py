"""A batch with second rows is computed where it lies.

Target: ``sglang.srt.model_executor.runner.eager_runner.EagerRunner``
Why: it copies a batch into buffers that are sized for as many rows as there may be requests, and rebuilds it.
How: such a batch was made for this pass alone (:mod:`sglang_patches.icarus.rows`), so nothing else changes its tensors
    and no copy is needed; upstream has the same way, ``SGLANG_EAGER_INPUT_NO_COPY``, for all batches.
Remove when: upstream can compute a token with several adapters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.model_executor.runner import eager_runner as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.icarus.rows import PairedForwardBatch

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch


@binds(
    "model_executor.runner.eager_runner:EagerRunner",
    at=(
        "model_executor.runner",
        "model_executor.model_runner",
        "model_executor.model_runner_components.cuda_graph_setup",
    ),
)
class EagerRunner(upstream.EagerRunner):
    """Copies no batch that has second rows."""

    @overrides("13971325b23ba815", "more rows than requests do not fit its buffers")
    def load_batch(self, forward_batch: ForwardBatch, pp_proxy_tensors: Any = None, **options: Any) -> ForwardBatch:
        if isinstance(forward_batch, PairedForwardBatch):
            return forward_batch
        return super().load_batch(forward_batch, pp_proxy_tensors, **options)
