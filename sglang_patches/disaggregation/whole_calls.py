"""Calls that an engine behind a router answers whole, since its module computes its prompts itself.

Such an engine is a colocated one in all but two things. The router names each call's id also where SGLang's model of
the body has no member for it, so that it can end the call. And it hears beside every answer, streamed or not, what the
prompts took: it passes answers on unread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from prefillshare.wire.call_report import REPORT_KEY, CallReport
from sglang_patches.disaggregation.samples import count_samples
from sglang_patches.http.request_state import REPORT, read_from_router
from sglang_patches.observed.call_report import read_note

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.managers.io_struct import GenerateReqInput

_COUNTED = ("prompt_tokens", "cached_tokens")
_COUNTED_HITS = ("own_hit_tokens", "cross_hit_tokens")


def read_whole(obj: GenerateReqInput, request: Request | None) -> Callable[[AsyncIterator[Any]], AsyncIterator[Any]]:
    """Give the call the id that the router has for it; what is to become of its answers.

    Effects: changes ``obj``.
    """
    told = read_from_router(request)
    if "rid" in told:
        obj.rid = told["rid"]
    return partial(note_prompts, request=request, num_samples=count_samples(obj))


async def note_prompts(answers: AsyncIterator[Any], request: Request | None, num_samples: int) -> AsyncIterator[Any]:
    """The answers; what is known of the prompts by the first of them stays with the request.

    Of several samples the first counts. A stream of several prompts tells of those that were prefilled by then.
    """
    known: dict[int, Mapping[str, Any]] = {}
    async for answer in answers:
        is_list = isinstance(answer, list)
        for place, sample in enumerate(answer if is_list else [answer]):
            index = place if is_list else sample.get("index", 0)
            known.setdefault(index // num_samples, sample["meta_info"])
        if request is not None:
            setattr(request.state, REPORT, {"meta_info": _add_up(known)})
        yield answer


def _add_up(known: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """One report on all prompts, however many: it goes into a header."""
    hits: list[CallReport] = [read_note(dict(meta)) for meta in known.values()]
    counts = {name: sum(meta.get(name) or 0 for meta in known.values()) for name in _COUNTED}
    return {**counts, REPORT_KEY: [{name: sum(hit.get(name, 0) for hit in hits) for name in _COUNTED_HITS}]}
