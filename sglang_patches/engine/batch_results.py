"""An answer that cannot go on ends with a reason.

Target: ``sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor``
Why: where no token satisfies a grammar, or following it takes too long (:mod:`sglang_patches.engine.xgrammar`), SGLang
    ends the call as if the caller had aborted it: 200, no text, no reason.
How: at both places at which a grammar is told about a token, the end gets status 400 and the grammar's reason.
Remove when: upstream ends such calls with an error.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from sglang.srt.managers.scheduler_components import batch_result_processor as upstream

from sglang_patches.declarations import binds, overrides

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


@binds(
    "managers.scheduler_components.batch_result_processor:SchedulerBatchResultProcessor",
    at=("managers.scheduler",),
)
class SchedulerBatchResultProcessor(upstream.SchedulerBatchResultProcessor):
    """Says why a grammar ended an answer."""

    @overrides("549c2c2e2e3c8eff", "an answer that cannot go on would end without a reason")
    def _accept_grammar_tokens(self, req: Req, tokens: int | list[int]) -> list[int]:
        kept: list[int] = super()._accept_grammar_tokens(req, tokens)
        _tell_why_it_ends(req)
        return kept

    @overrides("3d9a09dc6d547224", "an answer that cannot go on would end without a reason")
    def _apply_prefill_grammar(self, *, req: Req, **options: Any) -> None:
        super()._apply_prefill_grammar(req=req, **options)
        _tell_why_it_ends(req)


def _tell_why_it_ends(req: Req) -> None:
    reason = getattr(req.grammar, "prefillshare_end", None)
    if reason is None or req.to_finish is None:
        return
    params = req.sampling_params
    name = next((name for name in ("json_schema", "regex", "ebnf") if getattr(params, name)), "structural_tag")
    message = f"the answer cannot follow {name} ({reason}): correct it"
    req.to_finish = type(req.to_finish)(message, HTTPStatus.BAD_REQUEST, "BadRequestError")
