"""Counters of other processes that may start again: what each told last, and what it counted since.

A worker's counters begin anew with each of its starts. Taken together they must only rise, so what is added is the
difference to what it told before, or all of it after a new start. What a worker counted between the last question and
its death is lost.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from prefillshare.errors import AnswerError
from prefillshare.observe.document import (
    EAGER_COUNTERS,
    HANDOFF_COUNTERS,
    PUSH_COUNTERS,
    STORE_COUNTERS,
    WORKER_COUNTERS,
    DeploymentState,
    EagerState,
    HandoffState,
    ModuleState,
    PushState,
    StoreState,
    WorkerCounters,
    WorkerState,
    no_tokens,
)
from prefillshare.observe.observer import Handoffs, Observer

_Part = TypeVar("_Part", StoreState, PushState, EagerState)


@dataclass(slots=True, kw_only=True)
class WorkerReport:
    """What one worker told over all of its starts."""

    totals: WorkerCounters = field(default_factory=no_tokens)
    """Counters over all starts."""
    handoffs: Handoffs = field(default_factory=Handoffs)
    """Hand-offs over all starts."""
    store: StoreState | None = None
    """Its store as it told last, the counters over all starts; None when it has none."""
    push: PushState | None = None
    """What was pushed to it over all starts; None for a worker that nothing is pushed to."""
    eager: EagerState | None = None
    """What was computed ahead over all starts; None where nothing is."""
    latest: DeploymentState | None = None
    """The document that it told last."""

    def take(self, told: DeploymentState, observer: Observer, module: str | None) -> bool:
        """Count what is new in `told`, for `module` also in `observer`; return whether the worker was started again."""
        before = self.latest
        # Process ids are used again; the time of the start tells two lives of a worker apart.
        is_new_start = before is not None and before["started"] != told["started"]
        self.latest = told
        known = None if before is None or is_new_start else before
        self._count_worker(told["workers"][0], known and known["workers"][0])
        if module is not None:
            _count_module(observer, module, _module(told, module), known and _module(known, module))
        return is_new_start

    def _count_worker(self, told: WorkerState, known: WorkerState | None) -> None:
        _add_rises(self.totals, told, known, WORKER_COUNTERS)
        if told["handoff"] is not None:
            self._count_handoffs(told["handoff"], known["handoff"] if known else None)
        # A worker of an earlier version says nothing of them.
        if (store := told.get("store")) is not None:
            self.store = _with_rises(self.store, store, known and known.get("store"), STORE_COUNTERS)
        if (push := told.get("push")) is not None:
            self.push = _with_rises(self.push, push, known and known.get("push"), PUSH_COUNTERS)
        if (eager := told.get("eager")) is not None:
            self.eager = _with_rises(self.eager, eager, known and known.get("eager"), EAGER_COUNTERS)

    def _count_handoffs(self, told: HandoffState, known: HandoffState | None) -> None:
        now, before = cast(Mapping[str, Any], told), cast(Mapping[str, Any], known or {})
        for name in HANDOFF_COUNTERS:
            # A decode worker knows neither times nor ways, and a worker of an earlier version not all names.
            if now.get(name) is not None:
                total = (getattr(self.handoffs, name) or 0) + now[name] - (before.get(name) or 0)
                setattr(self.handoffs, name, total)


def check_report(told: DeploymentState, module: str | None) -> None:
    """Look whether `WorkerReport.take` can count what a worker tells; one of another version may lack what it reads.

    Raises: AnswerError.
    """
    try:
        WorkerReport().take(told, Observer(), module)
        sum(held_tokens(told).values())
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise AnswerError(f"told a state that cannot be read ({type(error).__name__}: {error})") from None


def held_tokens(told: DeploymentState) -> Mapping[str, int]:
    """Return tokens of KV that a worker holds, by tenants' marks."""
    return {held["owner"]: held["tokens"] for held in told.get("held", ())}


def _add_rises(
    totals: WorkerCounters, told: Mapping[str, Any], known: Mapping[str, Any] | None, names: Iterable[str]
) -> None:
    counters = cast(dict[str, int], totals)  # a TypedDict takes no names from a loop
    for name in names:
        counters[name] += told[name] - (known[name] if known else 0)


def _with_rises(total: _Part | None, told: _Part, known: _Part | None, names: Iterable[str]) -> _Part:
    """What was told, its counters those over all starts."""
    summed = cast(dict[str, int], {**told})
    before, seen = cast(Mapping[str, int], total or {}), cast(Mapping[str, int], known or {})
    for name in names:
        # A worker of an earlier version has not all names.
        summed[name] = summed.get(name, 0) + before.get(name, 0) - seen.get(name, 0)
    return cast(_Part, summed)


def _module(told: DeploymentState, name: str) -> ModuleState | None:
    return next((module for module in told["modules"] if module["name"] == name), None)


def _count_module(observer: Observer, name: str, told: ModuleState | None, known: ModuleState | None) -> None:
    """Count what only decode workers see; the rest of a module's numbers is the router's own."""
    if told is None:
        return
    stats = observer.stats_of(name)
    stats.generated_tokens += told["generated_tokens"] - (known["generated_tokens"] if known else 0)
    stats.retractions += told["retractions"] - (known["retractions"] if known else 0)
    stats.ttft.add(told["latency"]["ttft"])
    stats.itl.add(told["latency"]["itl"])
    if known:
        stats.ttft.add(known["latency"]["ttft"], sign=-1)
        stats.itl.add(known["latency"]["itl"], sign=-1)
