"""Anthropic's clients are told what a call has written into the cache.

Target: ``sglang.srt.entrypoints.anthropic.serving._anthropic_usage_from_openai``
Why: Anthropic's interface tells a prompt's tokens in three numbers: read from the cache, written to it, and neither.
    SGLang leaves out the second, so clients that reckon what a call cost, or how long its prompt was, count what was
    cached for the next call as if it were not.
How: of the prompt's whole pages before its last token, which decode modules share, what was not read is written; the
    three numbers together are the prompt.
Upstream: sglang/srt/entrypoints/anthropic/serving.py:110 at 0.5.17.
Remove when: upstream tells it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.entrypoints.anthropic.protocol import AnthropicUsage

MakeUsage = Callable[..., "AnthropicUsage"]


@wraps_upstream(
    "entrypoints.anthropic.serving:_anthropic_usage_from_openai",
    "400232c67843b167",
    "clients would take what is cached for their next call for lost",
)
def wrap_anthropic_usage_from_openai(original: MakeUsage) -> MakeUsage:
    def anthropic_usage_from_openai(usage: Any, **wanted: bool) -> AnthropicUsage:
        from sglang.srt.runtime_context import get_server_args

        told = original(usage, **wanted)
        if usage is None or not wanted["include_input"]:
            return told
        num_read = told.cache_read_input_tokens or 0
        num_written = count_written(usage.prompt_tokens or 0, num_read, get_server_args().page_size)
        if num_written:
            told.cache_creation_input_tokens = num_written
            told.input_tokens -= num_written
        return told

    return anthropic_usage_from_openai


def count_written(num_prompt: int, num_read: int, page_size: int) -> int:
    """Tokens of a prompt that its call has written into the cache."""
    num_shared = max(num_prompt - 1, 0) // page_size * page_size
    return max(num_shared - num_read, 0)
