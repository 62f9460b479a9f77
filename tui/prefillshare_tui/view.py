"""What the screens show: the latest snapshot, and how much everything grew within the time window."""

from collections.abc import Mapping
from dataclasses import dataclass

from prefillshare_tui.history import History, Point, Sample
from prefillshare_tui.snapshot import Snapshot
from prefillshare_tui.totals import (
    HitSplit,
    Quantile,
    Totals,
    add,
    hits,
    increase,
    quantile,
    totals_of_module,
    totals_of_tenant,
    totals_of_worker,
)


@dataclass(frozen=True, slots=True)
class Activity:
    """What one module, worker, tenant or deployment did within a time."""

    seconds: float
    """How long. 0 before a second snapshot came."""
    grown: Totals
    """By how much its counters grew."""

    def rate(self, name: str) -> float | None:
        """Growth of a counter per second."""
        value = self.grown.get(name)
        return value / self.seconds if value is not None and self.seconds > 0 else None

    @property
    def hits(self) -> HitSplit | None:
        """Where the KV of prompt tokens came from; None without prompts."""
        return hits(self.grown)

    def quantile(self, name: str, q: float, *, least: int | None = None) -> Quantile | None:
        """A latency's quantile; None of too few values, or of fewer than `least`."""
        return quantile(self.grown.histograms.get(name), q, least=least)

    @property
    def cached_ratio(self) -> float | None:
        """A worker's or tenant's cached part of prompt tokens; None without prompts."""
        prompt = self.grown.get("prompt_tokens")
        return (self.grown.get("cached_tokens") or 0.0) / prompt if prompt else None

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens computed per second: those that no cache held."""
        prompt = self.rate("prompt_tokens")
        if prompt is None:
            return None
        cached = [self.rate(name) or 0.0 for name in ("own_hit_tokens", "cross_hit_tokens", "cached_tokens")]
        return max(0.0, prompt - sum(cached))

    def per_second(self, amount: str, duration: str) -> float | None:
        """Growth of one counter over the growth of another: the speed while it happened."""
        seconds = self.grown.get(duration)
        return (self.grown.get(amount) or 0.0) / seconds if seconds else None


NOTHING = Activity(0.0, Totals())


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that a screen needs; made anew for each snapshot."""

    snapshot: Snapshot
    """The latest one."""
    span_s: float
    """The window asked for. Seconds."""
    samples: tuple[Sample, ...]
    """The window's samples, for plots."""
    total: Activity
    """All modules together."""
    modules: Mapping[str, Activity]
    """By name."""
    workers: Mapping[str, Activity]
    """By id."""
    tenants: Mapping[str, Activity]
    """By name."""


def view_of_window(snapshot: Snapshot, history: History, span_s: float) -> View:
    """Return the view of the last `span_s` seconds."""
    samples = history.window(span_s)
    first, last = samples[0], samples[-1]
    seconds = last.time - first.time
    return View(
        snapshot=snapshot,
        span_s=span_s,
        samples=samples,
        total=_activity(seconds, first.total, last.total),
        modules=_activities(seconds, first.modules, last.modules),
        workers=_activities(seconds, first.workers, last.workers),
        tenants=_activities(seconds, first.tenants, last.tenants),
    )


def view_since_start(snapshot: Snapshot) -> View:
    """Return the view of one snapshot alone: everything since the deployment started."""
    seconds = snapshot.time - snapshot.started if snapshot.started is not None else 0.0
    modules = {module.name: Activity(seconds, totals_of_module(module)) for module in snapshot.modules}
    workers = {worker.id: Activity(seconds, totals_of_worker(worker)) for worker in snapshot.workers}
    items = snapshot.tenants.items if snapshot.tenants else ()
    tenants = {tenant.name: Activity(seconds, totals_of_tenant(tenant)) for tenant in items}
    total = Totals()
    for activity in modules.values():
        total = add(total, activity.grown)
    return View(
        snapshot=snapshot,
        span_s=seconds,
        samples=(),
        total=Activity(seconds, total),
        modules=modules,
        workers=workers,
        tenants=tenants,
    )


def _activities(seconds: float, before: Mapping[str, Point], after: Mapping[str, Point]) -> dict[str, Activity]:
    return {name: _activity(seconds, before.get(name), point) for name, point in after.items()}


def _activity(seconds: float, before: Point | None, after: Point) -> Activity:
    # What joined within the window began at 0 when it was first seen.
    return Activity(seconds, increase(before.totals, after.totals) if before else after.totals)
