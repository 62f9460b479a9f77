"""Arithmetic of counters: how much they grew, through restarts of whoever counts, and what follows from that."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from prefillshare_tui.snapshot import Histogram, Module, Tenant, Worker

MODULE_COUNTERS = (
    "requests",
    "errors",
    "refused",
    "aborted",
    "prompt_tokens",
    "own_hit_tokens",
    "cross_hit_tokens",
    "generated_tokens",
)
WORKER_COUNTERS = ("prompt_tokens", "cached_tokens", "generated_tokens", "retractions")
TENANT_COUNTERS = ("calls", "prompt_tokens", "cached_tokens", "generated_tokens")
HANDOFF_COUNTERS = ("tokens", "bytes", "seconds", "calls")


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters of one module, worker or deployment."""

    values: Mapping[str, float] = field(default_factory=dict)
    """By name; what nobody knows is not in it."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    """By name."""

    def get(self, name: str) -> float | None:
        """Return a counter, None when nobody knows it."""
        return self.values.get(name)


@dataclass(frozen=True, slots=True)
class HitSplit:
    """Where the KV of prompt tokens came from. Tokens."""

    own: float
    """Made by the module's own earlier calls."""
    cross: float
    """First made for another decode module: what sharing gives."""
    missed: float
    """Computed."""

    @property
    def prompt(self) -> float:
        """All of them."""
        return self.own + self.cross + self.missed

    @property
    def ratio(self) -> float:
        """The part that was not computed again, 0 to 1."""
        return (self.own + self.cross) / self.prompt if self.prompt else 0.0


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile read off a histogram. Seconds."""

    seconds: float
    """The value, interpolated within its bucket."""
    is_at_least: bool = False
    """Whether it lies beyond the last finite bound, which `seconds` then is."""


def totals_of_module(module: Module) -> Totals:
    """The counters of a module."""
    return Totals(_known(module, MODULE_COUNTERS), module.latency)


def totals_of_worker(worker: Worker) -> Totals:
    """The counters of a worker; those of the hand-off are named handoff_..."""
    values = _known(worker, WORKER_COUNTERS)
    if worker.handoff:
        values |= {f"handoff_{name}": value for name, value in _known(worker.handoff, HANDOFF_COUNTERS).items()}
    return Totals(values)


def totals_of_tenant(tenant: Tenant) -> Totals:
    """The counters of a tenant; all that it was refused is one."""
    values = _known(tenant, TENANT_COUNTERS)
    refused = tenant.refused.total
    return Totals(values if refused is None else values | {"refused": refused})


def increase(before: Totals, after: Totals) -> Totals:
    """How much each counter grew; one that fell began again at 0."""
    values = {name: _growth(before.values.get(name), value) for name, value in after.values.items()}
    histograms = {
        name: _histogram_growth(before.histograms.get(name), histogram) for name, histogram in after.histograms.items()
    }
    return Totals(values, histograms)


def add(first: Totals, second: Totals) -> Totals:
    """Sum by name; what only one of them knows counts as it is."""
    values = dict(first.values)
    for name, value in second.values.items():
        values[name] = values.get(name, 0) + value
    histograms = dict(first.histograms)
    for name, histogram in second.histograms.items():
        mine = histograms.get(name)
        histograms[name] = _sum(mine, histogram) if mine and mine.bounds == histogram.bounds else histogram
    return Totals(values, histograms)


def hits(totals: Totals) -> HitSplit | None:
    """The split of prompt tokens, None when there were none or the server does not say."""
    prompt = totals.get("prompt_tokens")
    if not prompt or totals.get("own_hit_tokens") is None:
        return None
    own, cross = totals.get("own_hit_tokens") or 0.0, totals.get("cross_hit_tokens") or 0.0
    return HitSplit(own, cross, max(0.0, prompt - own - cross))


def least_values(q: float) -> int:
    """So many values have at least one beyond the q-quantile; of fewer, it would only be near their largest."""
    return math.ceil(1 / (1 - q) - 1e-6)


def quantile(histogram: Histogram | None, q: float, *, least: int | None = None) -> Quantile | None:
    """The q-quantile (0 to 1), as Prometheus interpolates it; None of fewer than `least` values, or `least_values`."""
    if histogram is None or (num := histogram.num_values) < (least_values(q) if least is None else least):
        return None
    wanted, seen, low = q * num, 0.0, 0.0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        if count and seen + count >= wanted:
            if math.isinf(bound):
                return Quantile(low, is_at_least=True)
            return Quantile(low + (bound - low) * (wanted - seen) / count)
        seen += count
        low = low if math.isinf(bound) else bound
    return Quantile(low, is_at_least=True)


def _known(owner: object, names: tuple[str, ...]) -> dict[str, float]:
    return {name: value for name in names if (value := getattr(owner, name)) is not None}


def _growth(before: float | None, after: float) -> float:
    return after if before is None or after < before else after - before


def _histogram_growth(before: Histogram | None, after: Histogram) -> Histogram:
    if before is None or before.bounds != after.bounds:
        return after
    counts = tuple(new - old for new, old in zip(after.counts, before.counts, strict=True))
    return after if min(counts) < 0 else Histogram(after.bounds, counts, max(0.0, after.sum - before.sum))


def _sum(first: Histogram, second: Histogram) -> Histogram:
    counts = tuple(left + right for left, right in zip(first.counts, second.counts, strict=True))
    return Histogram(first.bounds, counts, first.sum + second.sum)
