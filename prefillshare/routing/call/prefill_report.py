"""What a prefill worker's answer tells: how much it computed, and whose earlier prefill it reused."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from prefillshare.wire.call_report import REPORT_KEY


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
        return max(0, self.prompt_tokens - (self.cached_tokens or 0) - self.choice_tokens) if known else None


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
        prompt_tokens=sum(_read_count(_usage(item), "prompt_tokens") or 0 for item in items),
        cached_tokens=None if not cached or None in cached else sum(count or 0 for count in cached),
        own_hit_tokens=sum(_read_count(hit, "own_hit_tokens") or 0 for hit in hits),
        cross_hit_tokens=sum(_read_count(hit, "cross_hit_tokens") or 0 for hit in hits),
        choice_tokens=sum(_read_count(hit, "choice_tokens") or 0 for hit in hits),
        computing_s=max(_read_times(hits, "prefill_seconds"), default=None),
        handoff_s=max(_read_times(hits, "handoff_seconds"), default=0.0),
    )


def _usage(item: Mapping[str, Any]) -> Mapping[str, Any]:
    return _part(item, "usage") or _part(item, "meta_info")


def _cached_tokens(item: Mapping[str, Any]) -> int | None:
    usage = _usage(item)
    details = _part(usage, "prompt_tokens_details")
    return _read_count(details if "cached_tokens" in details else usage, "cached_tokens")


def _hits(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Of `/generate` in meta_info, of the OpenAI endpoints in metadata; each one is a `CallReport`."""
    for place in ("meta_info", "metadata"):
        hits = _part(item, place).get(REPORT_KEY)
        yield from (hit for hit in (hits if isinstance(hits, list) else [hits]) if isinstance(hit, Mapping))


def _part(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = item.get(name)
    return found if isinstance(found, Mapping) else {}


def _read_count(item: Mapping[str, Any], name: str) -> int | None:
    found = item.get(name)
    return found if type(found) is int and found >= 0 else None


def _read_times(hits: Iterable[Mapping[str, Any]], name: str) -> Iterator[float]:
    found = (hit.get(name) for hit in hits)
    return (seconds for seconds in found if isinstance(seconds, int | float) and seconds >= 0)
