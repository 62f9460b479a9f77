"""What a call's reply says of shared prefill, under ``prefillshare``.

The scheduler notes it on the request; `prefillshare.wire.call_report` has its names and says where replies show it.
"""

from __future__ import annotations

from typing import Any, Unpack

from prefillshare.wire.call_report import REPORT_KEY, CallReport


class _OfPrompt(list[CallReport]):
    """The note on a call for no token: SGLang sends as many values as tokens, of this one the note all the same.

    For such calls only: of any other the note comes with the first token, and must not come a second time.
    """

    def __getitem__(self, key: Any) -> Any:
        return list(self) if key == slice(0, 0) else super().__getitem__(key)


def note(req: Any, **values: Unpack[CallReport]) -> None:
    """Add ``values`` to what the reply to ``req`` says."""
    info = req.customized_info or {}
    # SGLang's own seam: one value per output token, so the dictionary comes with the first one.
    (known,) = info.get(REPORT_KEY, [{}])
    kind = _OfPrompt if req.sampling_params.max_new_tokens == 0 else list
    req.customized_info = {**info, REPORT_KEY: kind([{**known, **values}])}


def read_note(customized_info: dict[str, list[Any]] | None) -> CallReport:
    """What was noted, of a request or of the ``meta_info`` of its reply; empty when nothing was."""
    reports: list[CallReport] = (customized_info or {}).get(REPORT_KEY) or []
    return reports[0] if reports and reports[0] else {}


def add_report(reply: Any, meta_info: dict[str, list[Any]]) -> None:
    """Put what was noted into the ``metadata`` of an OpenAI reply, beside ``weight_version``; an error has none."""
    values = read_note(meta_info)
    if values and getattr(reply, "metadata", None) is not None:
        reply.metadata = {**reply.metadata, REPORT_KEY: values}
