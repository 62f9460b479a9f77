"""Values of OpenAI calls that SGLang takes as if they were not there, or that reach into its template engine.

Target: ``sglang.srt.entrypoints.openai.serving_base.OpenAIServingBase.handle_request``
Why: ``max_tokens: 0`` of a chat means "as long as you like"; ``chat_template_kwargs`` are passed on as arguments, and
    one of them is a template of the caller's own, which the event loop then runs for as long as it takes.
How: looked at before the original, by the names that the caller used; a refusal is status 400.
Upstream: sglang/srt/entrypoints/openai/serving_base.py:73 and serving_chat.py:1281 at 0.5.17.
Remove when: upstream refuses them.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING

from sglang_patches.disaggregation.role import is_prefill_worker

if TYPE_CHECKING:
    from pydantic import BaseModel

MAX_TOP_LOGPROBS = 20
"""As the OpenAI API defines it."""


def find_problem(request: BaseModel, vocab_size: int) -> str | None:
    """What is wrong with a parsed call, and what to do; None when nothing is."""
    checks = _CHECKS if is_prefill_worker() else (*_CHECKS, *_CHECKS_OF_ANSWERS)
    return next((found for check in checks if (found := check(request, vocab_size))), None)


def _check_length(request: BaseModel, _: int) -> str | None:
    # Completions may ask for no token: they have their own check, and no messages.
    names = ("max_tokens", "max_completion_tokens") if hasattr(request, "messages") else ("max_output_tokens",)
    for name in names:
        value = getattr(request, name, None)
        if value is not None and value < 1:
            return f"{name} is {value}: it must be at least 1"
    return None


def _check_logprobs(request: BaseModel, _: int) -> str | None:
    wanted = getattr(request, "top_logprobs", None)
    if wanted is not None and not 0 <= wanted <= MAX_TOP_LOGPROBS:
        return f"top_logprobs is {wanted}: it must be 0 to {MAX_TOP_LOGPROBS}"
    if wanted and getattr(request, "logprobs", None) is False:
        return f"top_logprobs is {wanted} without log-probabilities: set logprobs to true as well"
    return None


def _check_effects(request: BaseModel, _: int) -> str | None:
    if getattr(request, "stream_options", None) is not None and not getattr(request, "stream", False):
        return "stream_options is for streams: set stream to true, or leave it out"
    if getattr(request, "suffix", None):
        return "suffix is not supported: leave it out"
    if getattr(request, "echo", False) and getattr(request, "logprobs", None) == 0:
        return "logprobs is 0 with echo, which SGLang cannot answer: ask for 1 or more, or leave logprobs out"
    samples = getattr(request, "best_of", None)
    if samples is not None and samples != 1:
        return f"best_of is {samples}, which is not supported: use n and choose yourself"
    return None


def _check_template_arguments(request: BaseModel, _: int) -> str | None:
    taken = sorted(_own_arguments() & (getattr(request, "chat_template_kwargs", None) or {}).keys())
    if taken:
        return f"chat_template_kwargs may not set {', '.join(taken)}: leave it out, the deployment sets it"
    return None


def _check_tokens(request: BaseModel, vocab_size: int) -> str | None:
    given = getattr(request, "tokens", None) or ()
    flat = [token for part in given for token in (part if isinstance(part, list) else [part])]
    wrong = next((token for token in flat if not isinstance(token, int) or not 0 <= token < vocab_size), None)
    return None if wrong is None else f"token id {wrong} does not exist: ids of this model are 0 to {vocab_size - 1}"


_CHECKS = (_check_length, _check_template_arguments, _check_tokens)
_CHECKS_OF_ANSWERS = (_check_logprobs, _check_effects)
"""What a router changes in the call that a prefill worker gets: no stream, no log-probabilities."""


@functools.cache
def _own_arguments() -> frozenset[str]:
    """Names that mean something to the renderer itself, and are no variables of a template."""
    from transformers import PreTrainedTokenizerBase

    arguments = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    return frozenset(arguments) - {"documents"} | {"messages"}
