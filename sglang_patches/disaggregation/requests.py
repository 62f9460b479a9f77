"""What each role reads out of a call that both workers of a pair receive.

A prefill worker would apply the adapter, the grammar, the stop rules and the sampling parameters of the decode module
to a token that nobody reads, and could refuse the call for them. Samples of one call (n > 1) all carry its bootstrap
room: :mod:`sglang_patches.disaggregation.samples` gives each a room. A decode worker has no logits of the prompt: their
log-probabilities come with the call, from the prefill worker by way of the router.

So on a prefill worker everything but the prompt and what keeps tenants apart (``extra_key``) is neutral. What the pair
cannot do is refused with status 400 and one sentence, by both workers alike. A call whose KV goes nowhere (SGLang's
fake bootstrap host) is the prefill module's own: log-probabilities of its prompt, and no token.
:mod:`sglang_patches.engine.tokenizer_manager` asks when a call arrives.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from prefillshare.contract import NO_BOOTSTRAP_HOST
from prefillshare.wire.from_router import FromRouter, PromptLogprobs
from sglang_patches.checks import sampling_values
from sglang_patches.disaggregation.pushes import is_push_rid
from sglang_patches.disaggregation.role import is_behind_router, worker_role
from sglang_patches.disaggregation.samples import count_samples, spread_samples, with_prompt_logprobs
from sglang_patches.disaggregation.whole_calls import note_prompts, read_whole
from sglang_patches.http.prefetches import is_prefetch
from sglang_patches.http.request_state import note_report, read_from_router

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.managers.io_struct import GenerateReqInput

Reshape = Callable[[AsyncIterator[Any]], AsyncIterator[Any]]

NEUTRAL_FIELDS: dict[str, Any] = {
    "lora_path": None,
    "lora_id": None,
    "stream": False,
    "return_hidden_states": False,
    "custom_logit_processor": None,
    "max_thinking_tokens": None,
    "require_reasoning": False,
    "return_entropy": False,
    "return_flat_raw_top_logprobs": False,
    "return_flat_raw_top_logprobs_b64": False,
    "return_indexer_topk": False,
    "return_routed_experts": False,
    "return_sampling_mask": None,
}
"""Fields of a request that are the decode worker's business, and what they are on a prefill worker."""

LOGPROB_FIELDS: dict[str, Any] = dict.fromkeys(
    ("return_logprob", "logprob_start_len", "top_logprobs_num", "token_ids_logprob")
)
"""The same, but for a call that has no decode worker."""


def read_as_half(obj: GenerateReqInput, request: Request | None) -> Reshape | None:
    """Make of a call what this worker reads out of it; what is to become of its answers, None for nothing.

    Effects: changes ``obj``; does nothing in a colocated engine, and little in one that serves whole calls.
    Raises: ValueError saying what the pair cannot do.
    """
    role = worker_role()
    if role == "null":
        return read_whole(obj, request) if is_behind_router() else None
    if is_push_rid(obj.rid):
        obj.log_metrics = False  # as for health checks: nobody asked
    told = read_from_router(request)
    scores = _take_over(obj, told)
    # Both workers see the same call and must refuse the same: half of a pair would wait for the other.
    is_scoring = role == "prefill" and _goes_nowhere(obj)
    is_stream = obj.stream
    _refuse_unsupported(obj, has_prompt_logprobs=is_scoring)
    num_samples = count_samples(obj)
    spread_samples(obj)
    if role == "prefill":
        for params in _as_list(obj.sampling_params):
            sampling_values.check(params)
        _neutralize(obj, NEUTRAL_FIELDS if is_scoring else NEUTRAL_FIELDS | LOGPROB_FIELDS)
        if is_scoring and is_prefetch(request):
            # Its answer, in whichever form, is the client's; what it took is told beside it.
            obj.stream = is_stream
            return partial(note_prompts, request=request, num_samples=1)
        if is_scoring:
            return without_output
        # Of a call in a form that has no place for a report.
        return partial(note_report, request=request) if request is not None and "bootstrap_room" in told else None
    return partial(with_prompt_logprobs, scores=scores, num_samples=num_samples) if scores else None


def _take_over(obj: GenerateReqInput, told: FromRouter) -> Sequence[PromptLogprobs]:
    """Give the call what SGLang's models have dropped of it; the log-probabilities of its prompts that came along."""
    for name in ("rid", "bootstrap_host", "bootstrap_port", "bootstrap_room"):
        if name in told:
            setattr(obj, name, told[name])
    scores = told.get("prompt_logprobs") or ()
    if scores:
        obj.logprob_start_len = None
    return scores


def _goes_nowhere(obj: GenerateReqInput) -> bool:
    return all(host == NO_BOOTSTRAP_HOST for host in _as_list(getattr(obj, "bootstrap_host", None)))


def _refuse_unsupported(obj: GenerateReqInput, *, has_prompt_logprobs: bool) -> None:
    """Raises: ValueError, which SGLang answers with status 400."""
    if getattr(obj, "bootstrap_room", None) is None:
        raise ValueError("this is one worker of a disaggregated deployment: send the call to the deployment's router")
    if any(_as_list(obj.return_sampling_mask)):
        raise ValueError("return_sampling_mask is not available from disaggregated workers: leave it out")
    starts = [start for start in _as_list(obj.logprob_start_len) if start is not None]
    if not has_prompt_logprobs and any(_as_list(obj.return_logprob)) and any(start >= 0 for start in starts):
        raise ValueError(
            "log-probabilities of the prompt (logprob_start_len, echo) did not come with the call, and a decode worker "
            "has none: send the call to the deployment's router"
        )


def _neutralize(obj: GenerateReqInput, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        setattr(obj, name, value)
    # One token, so that upstream finds nothing wrong with the call; before it is queued it becomes none
    # (engine/prefill_queue.py).
    neutral = {"temperature": 0, "max_new_tokens": 1}
    is_batch = isinstance(obj.sampling_params, list)
    obj.sampling_params = [dict(neutral) for _ in obj.sampling_params] if is_batch else neutral


async def without_output(answers: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The answers without the token that stands for the end of a prefill: nothing was sampled."""
    async for answer in answers:
        for sample in _as_list(answer):
            sample["text"], sample["output_ids"] = "", []
            meta = sample["meta_info"]
            meta["completion_tokens"] = 0
            meta.update({name: [] for name in meta if name.startswith("output_") and isinstance(meta[name], list)})
            if "output_token_logprobs_length" in meta:
                meta["output_token_logprobs_length"] = 0
        yield answer


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
