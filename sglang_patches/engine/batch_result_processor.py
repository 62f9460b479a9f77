"""What becomes of a batch's results: no answer ends without a reason, and none before it has begun.

Target: ``sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor``
Why: where no token satisfies a grammar, or following it takes too long (:mod:`sglang_patches.engine.xgrammar`), SGLang
    ends the call as if the caller had aborted it: 200, no text, no reason. And when KV has arrived on a decode worker,
    it looks at the first token, which the prefill worker sampled; here there is none yet: stop rules would look at
    nothing, and a stream would begin with an empty piece. A call for no token that shares its pass with calls for some
    has a token sampled like theirs, and would tell that one's log-probability; by itself it tells none.
How: at both places at which a grammar is told about a token, the end gets status 400 and the grammar's reason. Of
    requests whose KV has arrived, only those go through the original that have output (resumed ones), were aborted, or
    asked for no token. What a call for no token tells of its pass's sampled token is taken out again.
Remove when: upstream ends such calls with an error, can hand over a request without a first token, and tells of a call
    for no token the same whoever shares its pass.
"""

from __future__ import annotations

from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sglang.srt.managers.scheduler_components import batch_result_processor as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.disaggregation.hand_off import is_fresh

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch


@binds(
    "managers.scheduler_components.batch_result_processor:SchedulerBatchResultProcessor",
    at=("managers.scheduler",),
)
class SchedulerBatchResultProcessor(upstream.SchedulerBatchResultProcessor):
    """Says why a grammar ended an answer, and knows requests that have not begun."""

    @overrides("494dbd9e5560c9a8", "requests without output would be checked for their end")
    def process_batch_result_prebuilt(self, batch: ScheduleBatch) -> None:
        due = [req for req in batch.reqs if _is_due(req)]
        for req in batch.reqs:
            if req not in due:
                req.time_stats.set_decode_prebuilt_finish_time()
        # All that upstream reads of a batch here.
        super().process_batch_result_prebuilt(
            SimpleNamespace(reqs=due, return_logprob=any(req.return_logprob for req in due))
        )

    @overrides("549c2c2e2e3c8eff", "an answer that cannot go on would end without a reason")
    def _accept_grammar_tokens(self, req: Req, tokens: int | list[int]) -> list[int]:
        kept: list[int] = super()._accept_grammar_tokens(req, tokens)
        _tell_why_it_ends(req)
        return kept

    @overrides("3d9a09dc6d547224", "an answer that cannot go on would end without a reason")
    def _apply_prefill_grammar(self, *, req: Req, **options: Any) -> None:
        super()._apply_prefill_grammar(req=req, **options)
        _tell_why_it_ends(req)

    @overrides(
        "2c39da1c63496e50", "a call for no token would tell a token's log-probability, or none, by who shares its pass"
    )
    def _apply_prefill_logprobs(self, *, req: Req, **options: Any) -> int:
        logprob_pt: int = super()._apply_prefill_logprobs(req=req, **options)
        if req.return_logprob and req.sampling_params.max_new_tokens == 0:
            # Of the next token's candidates (top_logprobs_num, token_ids_logprob) it tells either way.
            req.logprob.output_token_logprobs_val.clear()
            req.logprob.output_token_logprobs_idx.clear()
        return logprob_pt


def _is_due(req: Req) -> bool:
    ended = req.to_finish is not None or req.finished() or req.sampling_params.max_new_tokens == 0
    return ended or not is_fresh(req)


def _tell_why_it_ends(req: Req) -> None:
    reason = getattr(req.grammar, "prefillshare_end", None)
    if reason is None or req.to_finish is None:
        return
    params = req.sampling_params
    name = next((name for name in ("json_schema", "regex", "ebnf") if getattr(params, name)), "structural_tag")
    message = f"the answer cannot follow {name} ({reason}): correct it"
    req.to_finish = type(req.to_finish)(message, HTTPStatus.BAD_REQUEST, "BadRequestError")
