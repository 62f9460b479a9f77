"""A call of the router to a prefill worker that nobody waits for: it becomes a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefillshare.contract import EAGER_HEADER, MODULE_HEADER
from prefillshare.wire.text import decode_header
from sglang_patches.disaggregation.role import is_prefill_worker
from sglang_patches.eager.switch import make_rid

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.managers.io_struct import GenerateReqInput


def read_as_job(obj: GenerateReqInput, request: Request | None) -> None:
    """Make a job of a call that says it is one; it is no part of the load, and answered when its job is over.

    Effects: changes ``obj``.
    """
    if request is None or not is_prefill_worker() or request.headers.get(EAGER_HEADER) != "1":
        return
    if not obj.input_ids or not isinstance(obj.input_ids[0], int):
        raise ValueError(f"{EAGER_HEADER} stands before a call without input_ids: give one prompt as token ids")
    module = request.headers.get(MODULE_HEADER)
    obj.rid = make_rid(obj.rid)
    obj.log_metrics = False
    obj.routing_key = module and decode_header(module.encode("latin-1"))
