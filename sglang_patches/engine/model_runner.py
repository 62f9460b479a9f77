"""A forward pass with second rows runs without CUDA graphs, and gives one row of logits per request.

Target: ``sglang.srt.model_executor.model_runner.ModelRunner``
Why: a module that reads base-made KV only is asked beside the prefill module, in the same pass
    (:mod:`sglang_patches.icarus.rows`). Upstream computes each token of a batch once.
How: the rows are added when the pass begins, so the scheduler's batch, from which is sampled afterwards, stays as it
    is; before the logits they take the place of the tokens that they repeat. Graphs are captured for a number of rows,
    so such a pass goes to the eager runner.
Remove when: upstream can compute a token with several adapters.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sglang.srt.model_executor import model_runner as upstream
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

from sglang_patches.declarations import binds, overrides
from sglang_patches.icarus.backends import check_engine
from sglang_patches.icarus.modules import paired_modules
from sglang_patches.icarus.requests import PAIRED
from sglang_patches.icarus.rows import add_second_rows, keep_one_state_per_request

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch, PPProxyTensors
    from sglang.srt.model_executor.model_runner import ModelRunnerOutput

logger = logging.getLogger(__name__)


@binds(
    "model_executor.model_runner:ModelRunner",
    at=("layers.attention.hybrid_linear_attn_backend",),
)
class ModelRunner(upstream.ModelRunner):
    """Computes the second rows of modules that read base-made KV only."""

    @overrides("89d11382f1ce7d1e", "second rows would be sampled from as requests of their own")
    def init_lora_manager(self) -> None:
        super().init_lora_manager()
        if paired_modules:
            check_engine(self)
            self.model.logits_processor.register_forward_pre_hook(keep_one_state_per_request, with_kwargs=True)

    @overrides("fe1d114cafaaf14f", "the adapter would never be asked")
    def _forward_raw(
        self, forward_batch: ForwardBatch, pp_proxy_tensors: PPProxyTensors | None, *options: Any
    ) -> ModelRunnerOutput:
        paired = getattr(forward_batch, PAIRED, None)
        if paired is None:
            return super()._forward_raw(forward_batch, pp_proxy_tensors, *options)
        with forward_context(ForwardContext(attn_backend=self.attn_backend)):
            whole = add_second_rows(forward_batch, paired)
            self._prepare_eager_forward_batch(whole)
            logits = self.eager_runner.execute(whole, pp_proxy_tensors=pp_proxy_tensors)
        return upstream.ModelRunnerOutput(logits_output=logits, can_run_graph=False)
