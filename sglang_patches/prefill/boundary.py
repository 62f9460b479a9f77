"""A request's prefix namespace and its hand-off boundary.

Target: ``sglang.srt.managers.schedule_batch.Req.__init__``
Why: SGLang appends the LoRA id to ``extra_key``, so equal prompts of two decode
    modules never meet in the radix tree (I1); and nothing in a request says where
    the prefill module's part of the prompt ends (I5).
How: after the original, ``extra_key`` is set back to the user's own, and
    ``prefill_boundary`` is fixed once: later code may replace ``origin_input_ids``
    (``set_finish_with_abort`` does) and must not move it. ``decode_module`` says for whom
    a prompt is prefilled; it is no part of the namespace.
Upstream: sglang/srt/managers/schedule_batch.py:889 at 0.5.17.
Remove when: upstream has a namespace hook for requests.

    prompt      x_1 ............ x_{n-1} | x_n   y_1 ... y_m
    row index    0  ............   n-2   | n-1    n
    weights      prefill module          | decode module
                                         ^ prefill_boundary = n-1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches.disaggregation.role import is_decode_worker, is_prefill_worker

ALL_BASE_MADE = 1 << 62
"""Boundary of a base request of a colocated engine or a prefill worker: every position is the prefill module's."""


def wrap_req_init(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.lora_id is not None:
            assert self.extra_key.endswith(self.lora_id)
            self.extra_key = self.extra_key[: -len(self.lora_id)] or None
        # Whatever a decode worker runs is a decode module, with weights of its own or with an adapter.
        is_decoded = self.lora_id is not None or is_decode_worker()
        self.prefill_boundary = max(len(self.origin_input_ids) - 1, 0) if is_decoded else ALL_BASE_MADE
        # Who is served, for the statistics only: an adapter's id, on a prefill worker the name that the router hands
        # along, None for the prefill module itself.
        self.decode_module = self.routing_key if is_prefill_worker() else self.lora_id
        self.are_hits_counted = False
        self.start_underway, self.awaited_start = None, (None, 0)

    return __init__


def is_all_base_made(req: Any) -> bool:
    """True for a request whose whole KV, generated tokens included, is the prefill module's."""
    return req.prefill_boundary == ALL_BASE_MADE
