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
from typing import Any

MAX_TOP_LOGPROBS = 20
"""As the OpenAI API defines it."""


def problem(request: Any) -> str | None:
    """What is wrong with a parsed call, and what to do; None when nothing is."""
    if hasattr(request, "messages"):
        for name in ("max_tokens", "max_completion_tokens"):
            value = getattr(request, name, None)
            if value is not None and value < 1:
                return f"{name} is {value}: it must be at least 1"
    top_logprobs = getattr(request, "top_logprobs", None)
    if top_logprobs is not None and not 0 <= top_logprobs <= MAX_TOP_LOGPROBS:
        return f"top_logprobs is {top_logprobs}: it must be 0 to {MAX_TOP_LOGPROBS}"
    kwargs = getattr(request, "chat_template_kwargs", None) or {}
    taken = sorted(_own_arguments() & kwargs.keys())
    if taken:
        return f"chat_template_kwargs may not set {', '.join(taken)}: leave it out, the deployment sets it"
    return None


@functools.cache
def _own_arguments() -> frozenset[str]:
    """Names that mean something to the renderer itself, and are no variables of a template."""
    from transformers import PreTrainedTokenizerBase

    arguments = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    return frozenset(arguments) - {"documents"} | {"messages"}
