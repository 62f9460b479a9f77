"""A forward pass with second rows runs without CUDA graphs, and gives one row of logits per request; one of which only
KV is wanted gives none.

Target: ``sglang.srt.model_executor.model_runner.ModelRunner``
Why: a module that reads base-made KV only is asked beside the prefill module, in the same pass
    (:mod:`sglang_patches.icarus.rows`). Upstream computes each token of a batch once, and the logits of every pass.
How: the rows are added when the pass begins, so the scheduler's batch, from which is sampled afterwards, stays as it
    is; before the logits they take the place of the tokens that they repeat. Graphs are captured for a number of rows,
    so such a pass goes to the eager runner. A pass of which only KV is wanted ends there
    (:mod:`sglang_patches.prefill.kv_only`). Method patches: platforms have subclasses of the class.
Upstream: sglang/srt/model_executor/model_runner.py:1152 and :1526 at 0.5.17.
Remove when: upstream can compute a token with several adapters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream
from sglang_patches.icarus.modules import paired_modules
from sglang_patches.icarus.requests import PAIRED
from sglang_patches.prefill.kv_only import KV_ONLY, run_to_kv

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch, PPProxyTensors
    from sglang.srt.model_executor.model_runner import ModelRunner, ModelRunnerOutput

_LOG = logging.getLogger(__name__)


@wraps_upstream(
    "model_executor.model_runner:ModelRunner.init_lora_manager",
    "89d11382f1ce7d1e",
    "second rows would be sampled from as requests of their own",
)
def wrap_init_lora_manager(original: Callable[[ModelRunner], None]) -> Callable[[ModelRunner], None]:
    def init_lora_manager(self: ModelRunner) -> None:
        from sglang_patches.icarus.rows import keep_one_state_per_request

        original(self)
        if paired_modules:
            if self.use_mla_backend or self.sliding_window_size is not None:
                raise RuntimeError(
                    'modules with kv_rule = "all-base" are not supported over models with latent or sliding-window '
                    "attention yet: leave them out"
                )
            if self.device != "cpu":
                _LOG.info('sglang_patches: steps of modules with kv_rule = "all-base" run without CUDA graphs')
            self.model.logits_processor.register_forward_pre_hook(keep_one_state_per_request, with_kwargs=True)

    return init_lora_manager


@wraps_upstream(
    "model_executor.model_runner:ModelRunner._forward_raw",
    "fe1d114cafaaf14f",
    "the adapter would never be asked",
)
def wrap_forward_raw(original: Callable[..., ModelRunnerOutput]) -> Callable[..., ModelRunnerOutput]:
    def _forward_raw(
        self: ModelRunner, forward_batch: ForwardBatch, pp_proxy_tensors: PPProxyTensors | None, *options: Any
    ) -> ModelRunnerOutput:
        paired = getattr(forward_batch, PAIRED, None)
        if paired is None:
            if getattr(forward_batch, KV_ONLY, False):
                return run_to_kv(self, lambda: original(self, forward_batch, pp_proxy_tensors, *options))
            return original(self, forward_batch, pp_proxy_tensors, *options)
        from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
        from sglang.srt.model_executor.model_runner import ModelRunnerOutput

        from sglang_patches.icarus.rows import add_second_rows

        with forward_context(ForwardContext(attn_backend=self.attn_backend)):
            whole = add_second_rows(forward_batch, paired)
            self._prepare_eager_forward_batch(whole)
            logits = self.eager_runner.execute(whole, pp_proxy_tensors=pp_proxy_tensors)
        return ModelRunnerOutput(logits_output=logits, can_run_graph=False)

    return _forward_raw


_PASS = "what a pass does behind its KV, and who reads it"

RELIED_ON = {
    "layers.radix_attention:RadixAttention.forward": ("c87c770f3c99443e", _PASS),
    "managers.tp_worker:TpModelWorker.forward_batch_generation": ("b319569f48f6205e", _PASS),
    "model_executor.runner.eager_runner:EagerRunner._execute_extend": ("460c1afb5045140c", _PASS),
    "model_executor.model_runner:ModelRunner.forward": ("b4fce4306a1562d6", _PASS),
    "managers.utils:GenerationBatchResult.copy_to_cpu": ("3d7afcbed4dbb4d4", _PASS),
}
