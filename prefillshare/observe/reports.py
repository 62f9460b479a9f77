"""Counters of other processes that may start again: what each told last, and what it counted since.

A worker's counters begin anew with each of its starts. Taken together they must only rise, so what is added is the
difference to what it told before, or all of it after a new start. What a worker counted between the last question and
its death is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefillshare.observe.observer import HandOffs, Observer

MODULE_COUNTERS = ("generated_tokens", "retractions")
MODULE_LATENCIES = ("ttft", "itl")
"""What only decode workers see; the rest of a module's numbers is the router's own."""
WORKER_COUNTERS = ("prompt_tokens", "cached_tokens", "generated_tokens", "retractions")


@dataclass(slots=True, kw_only=True)
class WorkerReport:
    """What one worker told over all of its starts."""

    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WORKER_COUNTERS, 0))
    """Counters over all starts."""
    handoffs: HandOffs = field(default_factory=HandOffs)
    """Hand-offs over all starts."""
    latest: Mapping[str, Any] | None = None
    """The document that it told last."""

    def take(self, told: Mapping[str, Any], observer: Observer, module: str | None) -> bool:
        """Count what is new in `told`, for `module` also in `observer`; return whether the worker was started again."""
        before = self.latest
        is_new_start = before is not None and before["started"] != told["started"]
        self.latest = told
        known = None if before is None or is_new_start else before
        self._count_worker(told["workers"][0], known and known["workers"][0])
        if module is not None:
            _count_module(observer, module, _module(told, module), known and _module(known, module))
        return is_new_start

    def _count_worker(self, told: Mapping[str, Any], known: Mapping[str, Any] | None) -> None:
        for name in WORKER_COUNTERS:
            self.totals[name] += told[name] - (known[name] if known else 0)
        if told["handoff"] is None:
            return
        for name, value in told["handoff"].items():
            if value is not None:
                before = ((known or {}).get("handoff") or {}).get(name) or 0
                setattr(self.handoffs, name, (getattr(self.handoffs, name) or 0) + value - before)


def _module(told: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((one for one in told["modules"] if one["name"] == name), None)


def _count_module(
    observer: Observer, name: str, told: Mapping[str, Any] | None, known: Mapping[str, Any] | None
) -> None:
    if told is None:
        return
    stats = observer.stats_of(name)
    for counter in MODULE_COUNTERS:
        before = known[counter] if known else 0
        setattr(stats, counter, getattr(stats, counter) + told[counter] - before)
    for latency in MODULE_LATENCIES:
        getattr(stats, latency).add(told["latency"][latency])
        if known:
            getattr(stats, latency).add(known["latency"][latency], sign=-1)
