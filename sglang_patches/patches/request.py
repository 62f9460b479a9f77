"""A request's prefix namespace and its hand-off boundary.

Target: ``sglang.srt.managers.schedule_batch.Req.__init__``
Why: SGLang appends the LoRA id to ``extra_key``, so equal prompts of two decode
    modules never meet in the radix tree (I1); and nothing in a request says where
    the prefill module's part of the prompt ends (I5). The token of a health check would stay in the tree, as if
    a caller had sent it.
How: after the original, ``extra_key`` is set back to the user's own, and ``prefillshare``
    (:mod:`sglang_patches.prefill.request_state`) is added with the boundary; a health check leaves nothing behind.
Upstream: sglang/srt/managers/schedule_batch.py:889 at 0.5.17.
Remove when: upstream has a namespace hook for requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches.checks.reserved_ids import is_health_check
from sglang_patches.choosing.marks import CHOICE_PARAMETER, CHOSEN_PARAMETER, read_mark
from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.role import is_decode_worker, is_prefill_worker
from sglang_patches.icarus.modules import paired_modules
from sglang_patches.prefill.leases import read_pin_s
from sglang_patches.prefill.request_state import ALL_BASE_MADE, RequestState
from sglang_patches.prefill.unshared import is_unshared


@wraps_upstream(
    "managers.schedule_batch:Req.__init__",
    "6ebd73da76d2c10e",
    "the LoRA id would keep equal prompts apart; no boundary",
)
def wrap_req_init(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if is_health_check(self.rid):
            self.skip_radix_cache_insert = True
        if self.lora_id is not None:
            assert self.extra_key.endswith(self.lora_id)
            self.extra_key = self.extra_key[: -len(self.lora_id)] or None
        # Whatever a decode worker runs is a decode module, with weights of its own or with an adapter.
        is_decoded, is_paired = self.lora_id is not None or is_decode_worker(), self.lora_id in paired_modules
        is_own = is_unshared(self.extra_key)
        params = self.sampling_params.custom_params
        choice = read_mark(params, CHOICE_PARAMETER)
        last = max(len(self.origin_input_ids) - 1, 0)
        boundary = last if is_decoded and not is_paired and not is_own else ALL_BASE_MADE
        if choice is not None and not is_prefill_worker():
            # What it leaves in the tree is what its call would have left there.
            boundary = last
        self.prefillshare = RequestState(
            boundary=boundary,
            match_limit=last if is_decode_worker() else ALL_BASE_MADE,
            decode_module=self.routing_key if is_prefill_worker() else self.lora_id,
            is_paired=is_paired,
            is_unshared=is_own,
            pin_s=read_pin_s(params),
            choice=choice,
            chosen_by=read_mark(params, CHOSEN_PARAMETER),
        )

    return __init__
