"""Passes of which only KV is wanted end with the keys and values of the last layer.

Nothing is sampled from them and nothing of them is told: prompts at a prefill worker, what is computed ahead, a chunk
that another one follows. What the last layer does with its tokens behind their keys and values goes into logits that
nobody reads: its attention and MLP, the norm behind it and the LM head.

    layers 1 .. L-1 | layer L: norm, query, key, value, KV written | attention, MLP, norm, LM head
    |---------------------- computed ----------------------------->|<---------- left out --------|
                                                                   KvCompleteError

The KV is that of the whole pass to the bit, for no key or value depends on what is left out. Backends whose way of
writing KV is not ours attend in the last layer, too. A pass that replays a CUDA graph runs to the graph's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner, ModelRunnerOutput
    from sglang.srt.server_args import ServerArgs
    from torch import Tensor

KV_ONLY = "prefillshare_kv_only"
"""Attribute of a forward pass of which only KV is wanted. It is missing where more is."""

_END = "prefillshare_kv_end"
_WHOLE_WITH = (
    "enable_pdmux",
    "enable_torch_compile",
    "enable_layerwise_nvtx_marker",
    "enable_eplb",
    "enable_return_routed_experts",
    "enable_return_indexer_topk",
    "expert_distribution_recorder_mode",
    "msprobe_dump_config",
)
"""Settings with which somebody waits for what is left out, or looks at it; others of the kind are refused."""


class KvCompleteError(Exception):
    """The KV of a pass is complete: it unwinds the model's own loop over its layers."""


def is_kv_only(batch: ScheduleBatch) -> bool:
    """Whether nobody reads what the batch's next pass computes beside KV."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    if batch.forward_mode != ForwardMode.EXTEND:
        return False
    if batch.return_logprob or batch.return_hidden_states or batch.has_grammar:
        return False
    return all(req.sampling_params.max_new_tokens == 0 or goes_on(req, end) for req, end in with_ends(batch))


def with_ends(batch: ScheduleBatch) -> Iterator[tuple[Req, int]]:
    """The requests of a batch that extends them, each with how many of its tokens are computed after its next pass."""
    return zip(batch.reqs, map(sum, zip(batch.prefix_lens, batch.extend_lens, strict=True)), strict=True)


def goes_on(req: Req, end: int) -> bool:
    """Whether a pass that computes up to ``end`` ends before the last known token: another chunk follows it."""
    return end < len(req.origin_input_ids) + len(req.output_ids)


class KvEnd:
    """Where the KV of a model is complete: takes the place of the attention of its last layer.

    Of one model runner, whose passes run one after the other.
    """

    def __init__(self, attention: RadixAttention) -> None:
        self._attention = attention
        self._attend = attention.forward
        self._is_end = False
        attention.forward = self._forward

    def run(self, forward: Callable[[], ModelRunnerOutput]) -> ModelRunnerOutput | None:
        """What ``forward`` returns, or None where it ended here."""
        self._is_end = True
        try:
            with suppress(KvCompleteError):
                return forward()
        finally:
            self._is_end = False
        return None

    def _forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **options: Any,
    ) -> Any:
        if not self._is_end:
            return self._attend(q, k, v, forward_batch, save_kv_cache, **options)
        from sglang.srt.model_executor.forward_context import get_attn_backend

        layer, write_kv = self._attention, getattr(get_attn_backend(), "write_kv", None)
        if write_kv is None or k is None or v is None or not save_kv_cache:
            self._attend(q, k, v, forward_batch, save_kv_cache, **options)
        else:
            keys = k.view(-1, layer.tp_k_head_num, layer.qk_head_dim)
            values = v.view(-1, layer.tp_v_head_num, layer.v_head_dim)
            write_kv(layer, keys, values, forward_batch)
        raise KvCompleteError


def run_to_kv(runner: ModelRunner, forward: Callable[[], ModelRunnerOutput]) -> ModelRunnerOutput:
    """A pass of which only KV is wanted: where it could end early, its output has no logits.

    Effects: the first time, the attention of the model's last layer is replaced.
    """
    from sglang.srt.layers.logits_processor import LogitsProcessorOutput
    from sglang.srt.model_executor.model_runner import ModelRunnerOutput

    if not hasattr(runner, _END):
        last = None if _has_to_be_whole(runner.server_args) else _find_last_attention(runner)
        setattr(runner, _END, None if last is None else KvEnd(last))
    end: KvEnd | None = getattr(runner, _END)
    if end is None:
        return forward()
    whole = end.run(forward)
    if whole is not None:
        return whole
    return ModelRunnerOutput(logits_output=LogitsProcessorOutput(next_token_logits=None), can_run_graph=False)


def _has_to_be_whole(args: ServerArgs) -> bool:
    is_watched = any(getattr(args, name) for name in _WHOLE_WITH)
    is_in_parts = args.attn_cp_size > 1 or args.dcp_size > 1
    # Weights that lie elsewhere are fetched for the next layer where a layer ends.
    return is_watched or is_in_parts or args.cpu_offload_gb > 0 or args.offload_group_size > 0


def _find_last_attention(runner: ModelRunner) -> RadixAttention | None:
    """The attention behind which no KV is written; None where that is not one module's."""
    from sglang.srt.layers.radix_attention import RadixAttention

    layers = [module for module in runner.model.modules() if isinstance(module, RadixAttention)]
    last = max((layer.layer_id for layer in layers), default=-1)
    found = [layer for layer in layers if layer.layer_id == last]
    return found[0] if len(found) == 1 else None
