"""Hidden states on a prefill worker, where SGLang drops them: its own way into a request, and from there to the answer.

:mod:`sglang_patches.engine.scheduler` calls, before a batch's results are processed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.managers.scheduler_components.batch_result_processor import SchedulerBatchResultProcessor
    from sglang.srt.managers.utils import GenerationBatchResult


def keep_states(processor: SchedulerBatchResultProcessor, batch: ScheduleBatch, result: GenerationBatchResult) -> None:
    """Put the states that requests of a batch have asked for where the output streamer finds them."""
    if not batch.return_hidden_states or result.logits_output.hidden_states is None:
        return
    if result.copy_done is not None:
        result.copy_done.synchronize()
    mode = processor._get_prefill_hidden_capture_mode(batch, processor.server_args)
    offset, lengths = 0, result.extend_input_len_per_req
    for req, length in zip(batch.reqs, lengths, strict=True):
        offset = processor._append_prefill_hidden_states(
            req=req,
            logits_output=result.logits_output,
            hidden_state_offset=offset,
            capture_hidden_mode=mode,
            extend_input_len=length,
            # Of a chunk before the last one it is no prompt's last token.
            store=req.inflight_middle_chunks <= 0,
        )


_STATES = "how a hidden state finds its request"

RELIED_ON = {
    "managers.scheduler_components.batch_result_processor:"
    "SchedulerBatchResultProcessor._append_prefill_hidden_states": (
        "bb9cd5364d93d0df",
        _STATES,
    ),
    "managers.scheduler_components.batch_result_processor:"
    "SchedulerBatchResultProcessor._get_prefill_hidden_capture_mode": (
        "48344866ab75918d",
        _STATES,
    ),
    "layers.logits_processor:LogitsProcessor._get_hidden_states_to_store": ("db8405c726de17b2", _STATES),
    "managers.scheduler_components.output_streamer:_GenerationStreamAccumulator.accept": (
        "f618b277a2fece8c",
        _STATES,
    ),
}
