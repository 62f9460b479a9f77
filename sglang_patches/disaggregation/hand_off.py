"""The size of a call's hand-off, and how long its prefill waited for it; reported with the call.

Both workers of a call tell the size (:mod:`sglang_patches.observed.call_report`), the prefill worker also the time.
"""

from __future__ import annotations

import time
from typing import Any

from sglang_patches.observed.call_report import note, noted


def report(req: Any, num_held_tokens: int, kv_manager: Any) -> None:
    """Note on ``req`` what the decode worker lacked beyond its ``num_held_tokens``.

    Units: bytes of whole pages, as they are transferred, of this rank's share.
    """
    num_tokens = len(req.origin_input_ids) - num_held_tokens
    num_pages = -(-num_tokens // kv_manager.kv_args.page_size)
    note(req, handoff_tokens=num_tokens, handoff_bytes=num_pages * kv_manager.kv_item_lens_sum)


def report_end(req: Any) -> None:
    """Note on ``req`` of a prefill worker, whose hand-off is over, the seconds from the end of its prefill."""
    started = req.time_stats.prefill_transfer_queue_entry_time
    if started > 0 and "handoff_tokens" in noted(req.customized_info):
        note(req, handoff_seconds=time.perf_counter() - started)
