"""What was seen in the last half hour: fine for the last minute, coarser before, so that memory stays small.

Counters in samples never fall: what a restarted process counts is added to what it had counted before.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from prefillshare_tui.snapshot import Kv, Snapshot, Worker
from prefillshare_tui.totals import Totals, add, increase, totals_of_module, totals_of_tenant, totals_of_worker

SPANS_S = (60.0, 300.0, 1800.0)
"""Time windows to look at."""
POINTS_PER_SPAN = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One module, worker, tenant or deployment at one moment."""

    totals: Totals
    """Counters since the dashboard first saw it, plus nothing of before."""
    running: float | None = None
    """Calls in work."""
    queued: float | None = None
    """Calls waiting."""
    kv: Kv | None = None
    """Memory of a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A whole deployment at one moment."""

    time: float
    """The server's clock. Unix seconds."""
    total: Point
    """All modules together."""
    modules: Mapping[str, Point]
    """By name."""
    workers: Mapping[str, Point]
    """By id."""
    tenants: Mapping[str, Point]
    """By name; empty where one key is everybody's."""


class History:
    """The samples of every window."""

    def __init__(self) -> None:
        self._rings = {span: _Ring(span) for span in SPANS_S}
        self._counters = _Counters()
        self._started: float | None = None
        self.last: Sample | None = None

    def add(self, snapshot: Snapshot) -> bool:
        """Take a snapshot; return False for one that is no newer than the last."""
        if self.last and self._is_same_server(snapshot) and snapshot.time <= self.last.time:
            return False
        if self.last and snapshot.time <= self.last.time:
            # Another server, or a clock that was set back: times of before would lie in the future.
            self._rings = {span: _Ring(span) for span in SPANS_S}
        sample = self._counters.sample(snapshot, has_restarted=not self._is_same_server(snapshot))
        self._started, self.last = snapshot.started, sample
        for ring in self._rings.values():
            ring.add(sample)
        return True

    def window(self, span_s: float) -> tuple[Sample, ...]:
        """The samples of the last `span_s` seconds, oldest first; growth is counted from the first one."""
        return self._rings[span_s].samples()

    def _is_same_server(self, snapshot: Snapshot) -> bool:
        return self.last is None or self._started == snapshot.started


class _Ring:
    """Samples at least `step` apart, and always the newest one."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._step_s = span_s / POINTS_PER_SPAN
        self._kept: deque[Sample] = deque()
        self._newest: Sample | None = None

    def add(self, sample: Sample) -> None:
        self._newest = sample
        if not self._kept or sample.time - self._kept[-1].time >= self._step_s:
            self._kept.append(sample)
        # One sample at or before the window's start stays: the window's growth is counted from it.
        while len(self._kept) > 1 and self._kept[1].time <= sample.time - self._span_s:
            self._kept.popleft()

    def samples(self) -> tuple[Sample, ...]:
        kept = tuple(self._kept)
        return kept if self._newest is None or kept[-1] is self._newest else (*kept, self._newest)


class _Counters:
    """Remembers what each process last said and what it has grown by in all."""

    def __init__(self) -> None:
        self._said: dict[Hashable, Totals] = {}
        self._grown: dict[Hashable, Totals] = {}
        self._pids: dict[str, float | None] = {}

    def sample(self, snapshot: Snapshot, *, has_restarted: bool) -> Sample:
        modules = {
            module.name: Point(
                totals=self._grow(("module", module.name), totals_of_module(module), has_restarted),
                running=module.running,
                queued=module.queued,
            )
            for module in snapshot.modules
        }
        workers = {
            worker.id: Point(
                totals=self._grow(("worker", worker.id), totals_of_worker(worker), self._is_new_process(worker)),
                running=worker.running,
                queued=worker.queued,
                kv=worker.kv,
            )
            for worker in snapshot.workers
        }
        tenants = {
            tenant.name: Point(totals=self._grow(("tenant", tenant.name), totals_of_tenant(tenant), has_restarted))
            for tenant in (snapshot.tenants.items if snapshot.tenants else ())
        }
        return Sample(time=snapshot.time, total=_together(modules), modules=modules, workers=workers, tenants=tenants)

    def _is_new_process(self, worker: Worker) -> bool:
        before = self._pids.get(worker.id, worker.pid)
        self._pids[worker.id] = worker.pid if worker.pid is not None else before
        return worker.pid is not None and before is not None and worker.pid != before

    def _grow(self, key: Hashable, said: Totals, has_restarted: bool) -> Totals:
        before = self._said.get(key)
        # What is null now was known before and may be again: keep the last word on each counter.
        self._said[key] = said if before is None else Totals({**before.values, **said.values}, said.histograms)
        grown = self._grown.get(key)
        if before is None or grown is None:
            self._grown[key] = increase(said, said)
        else:
            self._grown[key] = add(grown, increase(Totals() if has_restarted else before, said))
        return self._grown[key]


def _together(modules: Mapping[str, Point]) -> Point:
    points = list(modules.values())
    return Point(
        totals=reduce(add, (point.totals for point in points), Totals()),
        running=known_sum(point.running for point in points),
        queued=known_sum(point.queued for point in points),
    )


def known_sum(values: Iterable[float | None]) -> float | None:
    """Sum of those that are known, None when none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
