"""Which part of a disaggregated deployment this process belongs to."""

from __future__ import annotations

import os
from typing import Literal

from prefillshare.contract import ROUTED_VARIABLE

Role = Literal["null", "prefill", "decode"]


def worker_role() -> Role:
    """``null`` in an engine that prefills and decodes, and wherever no engine has been configured."""
    from sglang.srt.runtime_context import get_context

    # Asked at each call, not at import: classes are bound before the process has read its settings.
    try:
        return get_context().server_args.disaggregation_mode
    except ValueError:  # nothing published yet
        return "null"


def is_behind_router() -> bool:
    """True in every process of a disaggregated deployment's workers, engines that serve whole calls among them."""
    return worker_role() != "null" or bool(os.getenv(ROUTED_VARIABLE))


def is_decode_worker() -> bool:
    """True in every process of a decode worker."""
    return worker_role() == "decode"


def is_prefill_worker() -> bool:
    """True in every process of a prefill worker."""
    return worker_role() == "prefill"
