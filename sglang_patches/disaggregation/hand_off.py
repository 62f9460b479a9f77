"""Where a handed-over request stands, and the size and duration of its hand-off, which are reported with the call.

Both workers of a call tell the size (:mod:`sglang_patches.observed.call_report`), the prefill worker also the time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sglang_patches.observed.call_report import note, read_note

if TYPE_CHECKING:
    from sglang.srt.disaggregation.common.conn import CommonKVManager
    from sglang.srt.managers.schedule_batch import Req


def is_fresh(req: Req) -> bool:
    """True before a request's first decode step has been read back: nothing was generated yet."""
    return len(req.output_ids) == 0


def report(req: Req, num_held_tokens: int, kv_manager: CommonKVManager) -> None:
    """Note on ``req`` what the decode worker lacked beyond its ``num_held_tokens``.

    Units: bytes of whole pages, as they are transferred, of this rank's share.
    """
    # The protocol moves all n rows, x_n's too, which is never read (patches/prebuilt_batch.py).
    num_tokens = len(req.origin_input_ids) - num_held_tokens
    num_pages = -(-num_tokens // kv_manager.kv_args.page_size)
    note(req, handoff_tokens=num_tokens, handoff_bytes=num_pages * kv_manager.kv_item_lens_sum)


def report_end(req: Req) -> None:
    """Note on ``req`` of a prefill worker, whose hand-off is over, which way it went, and how long both took.

    Units: seconds; those of the hand-off from the end of the prefill on.
    """
    started = req.time_stats.prefill_transfer_queue_entry_time
    if started > 0 and "handoff_tokens" in read_note(req.customized_info):
        goes_by_memory = getattr(req.disagg_kv_sender, "goes_by_memory", False)  # other transports do not know it
        note(
            req,
            # Before that the request waited for rows at the decode worker, which is no work of this one.
            prefill_seconds=started - req.time_stats.wait_queue_entry_time,
            handoff_seconds=time.perf_counter() - started,
            handoff_by_memory=goes_by_memory,
        )
