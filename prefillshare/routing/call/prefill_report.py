"""What a prefill worker's answer tells: how much it computed, and whose earlier prefill it reused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from prefillshare.wire.call_report import REPORT_KEY, CallReport


@dataclass(slots=True, kw_only=True)
class PrefillReport:
    """The report on all prompts of a call."""

    prompt_tokens: int = 0
    """Tokens of the prompts; 0 when it was not told."""
    cached_tokens: int | None = None
    """Of these, tokens that were there; None when it was not told."""
    own_hit_tokens: int = 0
    """Cached tokens that the call's own module had prefilled."""
    cross_hit_tokens: int = 0
    """Cached tokens that other modules had prefilled."""
    choice_tokens: int = 0
    """Tokens that were computed just before, to choose the module."""
    computing_s: float | None = None
    """From when it could begin to the end of the computation, of the longest; None when it was not told."""
    handoff_s: float = 0.0
    """From then on to the end of the hand-off, of the longest; 0 when it was not told."""

    @property
    def computed_tokens(self) -> int | None:
        """Tokens that were computed; None when it was not told."""
        known = self.prompt_tokens and self.cached_tokens is not None
        return self.prompt_tokens - (self.cached_tokens or 0) - self.choice_tokens if known else None


def read_report(content: bytes | str, num_samples: int = 1) -> PrefillReport:
    """Return what the body of a prefill worker's answer tells; what cannot be read tells nothing.

    Of several samples of a prompt the first counts, for which it was computed.
    """
    try:
        value: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return PrefillReport()
    told = value[::num_samples] if isinstance(value, list) else [value]
    items = [item for item in told if isinstance(item, Mapping)]
    cached = [_cached_tokens(item) for item in items]
    hits = [hit for item in items for hit in _hits(item)]
    return PrefillReport(
        prompt_tokens=sum(_usage(item).get("prompt_tokens") or 0 for item in items),
        cached_tokens=None if not cached or None in cached else sum(count or 0 for count in cached),
        own_hit_tokens=sum(hit.get("own_hit_tokens", 0) for hit in hits),
        cross_hit_tokens=sum(hit.get("cross_hit_tokens", 0) for hit in hits),
        choice_tokens=sum(hit.get("choice_tokens", 0) for hit in hits),
        computing_s=max((hit["prefill_seconds"] for hit in hits if "prefill_seconds" in hit), default=None),
        handoff_s=max((hit.get("handoff_seconds", 0.0) for hit in hits), default=0.0),
    )


def _usage(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return item.get("usage") or item.get("meta_info") or {}


def _cached_tokens(item: Mapping[str, Any]) -> int | None:
    usage = _usage(item)
    details = usage.get("prompt_tokens_details") or {}
    found: int | None = details.get("cached_tokens", usage.get("cached_tokens"))
    return found


def _hits(item: Mapping[str, Any]) -> Iterator[CallReport]:
    """Of `/generate` in meta_info, of the OpenAI endpoints in metadata."""
    for place in ("meta_info", "metadata"):
        hits = (item.get(place) or {}).get(REPORT_KEY)
        yield from hits if isinstance(hits, list) else [hits] if hits else []
