"""The size of a call's hand-off, reported with the call.

Both workers of a call put ``[{"handoff_tokens": ..., "handoff_bytes": ...}]`` under ``prefillshare`` into the
``meta_info`` of ``/generate``; the OpenAI endpoints show the same dictionary under ``metadata.prefillshare`` of an
unstreamed reply, such as the prefill worker's always is.

Target: ``sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._build_chat_response`` and
    ``sglang.srt.entrypoints.openai.serving_completions.OpenAIServingCompletion._build_completion_response``
Why: OpenAI replies carry no ``meta_info``.
How: the dictionary of the first choice is added to the reply's ``metadata``, beside ``weight_version``.
Upstream: sglang/srt/entrypoints/openai/serving_chat.py:1727, serving_completions.py:497 at 0.5.17.
Remove when: upstream reports transfers per request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

META_KEY = "prefillshare"


def report(req: Any, num_held_tokens: int, kv_manager: Any) -> None:
    """Note on ``req`` what the decode worker lacked beyond its ``num_held_tokens``.

    Units: bytes of whole pages, as they are transferred, of this rank's share.
    """
    num_tokens = len(req.origin_input_ids) - num_held_tokens
    num_pages = -(-num_tokens // kv_manager.kv_args.page_size)
    sizes = {"handoff_tokens": num_tokens, "handoff_bytes": num_pages * kv_manager.kv_item_lens_sum}
    # SGLang's own seam: one value per output token, so the dictionary comes with the first one.
    req.customized_info = {**(req.customized_info or {}), META_KEY: [sizes]}


def wrap_build_response(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_response(self: Any, request: Any, ret: list[dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        reply = original(self, request, ret, *args, **kwargs)
        sizes = next(iter(ret[0]["meta_info"].get(META_KEY) or ()), None)
        if sizes is not None and getattr(reply, "metadata", None) is not None:
            reply.metadata = {**reply.metadata, META_KEY: sizes}
        return reply

    return build_response
