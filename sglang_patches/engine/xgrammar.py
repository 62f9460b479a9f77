"""An answer that cannot go on, or takes too long to follow, ends with a reason instead of silently or for all.

Target: ``sglang.srt.constrained.xgrammar_backend.XGrammarGrammar``, ``accept_token`` and ``fill_vocab_mask``;
    ``_accept_grammar_tokens`` and ``_apply_prefill_grammar`` of
    ``sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor``;
    ``sglang.srt.constrained.base_grammar_backend.BaseGrammarBackend.set_cache``; the class ``GrammarCompiler`` as
    ``sglang.srt.constrained.xgrammar_backend`` sees it
Why: where no token satisfies a grammar, SGLang ends the call as if the caller had aborted it: 200, no text, no reason.
    A grammar whose every token takes longer than the one before holds up all calls of a batch, since it is followed
    between two of their steps. And each grammar ever asked for stays in memory.
How: both times are taken; a token beyond ``STEP_SECONDS`` ends its own call. Tensor-parallel ranks must agree on who
    ends, and their clocks do not, so there only the trial before the call (:mod:`sglang_patches.answers.trial`) looks
    at times. The end gets status 400 and its reason. The oldest grammars are forgotten.
Upstream: sglang/srt/managers/scheduler_components/batch_result_processor.py:571,701,
    sglang/srt/constrained/xgrammar_backend.py:92,118 and sglang/srt/constrained/base_grammar_backend.py:255 at 0.5.17.
Remove when: upstream ends such calls with an error, and bounds its cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

STEP_SECONDS = 0.2
"""Twice what a trial allows, of processor time: a busy machine ends nobody's call."""
MAX_GRAMMARS = 256
CACHE_BYTES = 256 << 20


def wrap_fill_vocab_mask(original: Callable[..., None]) -> Callable[..., None]:
    def fill_vocab_mask(self: Any, vocab_mask: Any, idx: int) -> None:
        began = time.thread_time()
        original(self, vocab_mask, idx)
        self.prefillshare_mask_seconds = time.thread_time() - began

    return fill_vocab_mask


def wrap_accept_token(original: Callable[..., None]) -> Callable[..., None]:
    def accept_token(self: Any, token: int) -> None:
        began = time.thread_time()
        try:
            original(self, token)
        except ValueError:
            self.prefillshare_end = f"no token satisfies it after {len(self.accepted_tokens)} tokens of the answer"
            raise
        seconds = time.thread_time() - began + getattr(self, "prefillshare_mask_seconds", 0.0)
        if seconds > STEP_SECONDS and _is_alone():
            self.prefillshare_end = f"it is ambiguous: following one token took {seconds:.1f} s"
            raise ValueError(self.prefillshare_end)

    return accept_token


def _is_alone() -> bool:
    from sglang.srt.runtime_context import get_server_args

    return bool(get_server_args().tp_size == 1)


def wrap_accept(original: Callable[..., Any]) -> Callable[..., Any]:
    """For both places at which the scheduler tells a grammar about a token."""

    def accept(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        req = kwargs["req"] if "req" in kwargs else args[0]
        reason = getattr(req.grammar, "prefillshare_end", None)
        if reason is not None and req.to_finish is not None:
            _say(req, reason)
        return result

    return accept


def _say(req: Any, reason: str) -> None:
    params = req.sampling_params
    name = next((one for one in ("json_schema", "regex", "ebnf") if getattr(params, one)), "structural_tag")
    message = f"the answer cannot follow {name} ({reason}): correct it"
    req.to_finish = type(req.to_finish)(message, HTTPStatus.BAD_REQUEST, "BadRequestError")


def wrap_set_cache(original: Callable[..., None]) -> Callable[..., None]:
    def set_cache(self: Any, key: tuple[str, str], value: Any) -> None:
        original(self, key, value)
        while len(self.cache) > MAX_GRAMMARS:
            del self.cache[next(iter(self.cache))]

    return set_cache


def bound_compiler(original: Callable[..., Any]) -> Callable[..., Any]:
    """Makes compilers whose own cache does not grow for ever."""

    def make_compiler(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{"cache_limit_bytes": CACHE_BYTES} | kwargs)

    return make_compiler
