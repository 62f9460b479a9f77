"""Which part of a disaggregated deployment this process belongs to."""

from __future__ import annotations

from typing import Literal

Role = Literal["null", "prefill", "decode"]


def worker_role() -> Role:
    """``null`` in a colocated engine, and wherever no engine has been configured."""
    from sglang.srt.runtime_context import get_context

    # Asked at each call, not at import: classes are bound before the process has read its settings.
    try:
        return get_context().server_args.disaggregation_mode
    except ValueError:  # nothing published yet
        return "null"


def is_decode_worker() -> bool:
    """True in every process of a decode worker."""
    return worker_role() == "decode"


def is_prefill_worker() -> bool:
    """True in every process of a prefill worker."""
    return worker_role() == "prefill"
