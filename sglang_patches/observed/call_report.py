"""What a call's reply says of shared prefill, under ``prefillshare``.

The scheduler notes it on the request: ``own_hit_tokens`` and ``cross_hit_tokens`` (which add up to ``cached_tokens``),
across workers ``handoff_tokens``, ``handoff_bytes`` and ``handoff_seconds``. ``/generate`` shows it as a list of one
dictionary in ``meta_info``; the OpenAI endpoints as that dictionary in the ``metadata`` of an unstreamed reply.
"""

from __future__ import annotations

from typing import Any

META_KEY = "prefillshare"


def note(req: Any, **values: float) -> None:
    """Add ``values`` to what the reply to ``req`` says."""
    info = req.customized_info or {}
    # SGLang's own seam: one value per output token, so the dictionary comes with the first one.
    (known,) = info.get(META_KEY, [{}])
    req.customized_info = {**info, META_KEY: [{**known, **values}]}


def read_note(customized_info: dict[str, list[Any]] | None) -> dict[str, float]:
    """What was noted, of a request or of the ``meta_info`` of its reply; empty when nothing was."""
    return next(iter((customized_info or {}).get(META_KEY) or ()), None) or {}


def add_report(reply: Any, meta_info: dict[str, list[Any]]) -> None:
    """Put what was noted into the ``metadata`` of an OpenAI reply, beside ``weight_version``; an error has none."""
    values = read_note(meta_info)
    if values and getattr(reply, "metadata", None) is not None:
        reply.metadata = {**reply.metadata, META_KEY: values}
