"""Curves over the time window, computed from its samples; widgets draw them."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10
from typing import Literal

from prefillshare_tui import words
from prefillshare_tui.history import Point, Sample, known_sum
from prefillshare_tui.parts import Tone
from prefillshare_tui.totals import increase
from prefillshare_tui.view import Activity

SMOOTHING = 20
"""A point of a rate is the mean over this part of the window."""
_GAP_STEPS = 5
"""Samples further apart than this many usual steps are not joined: the dashboard saw nothing in between."""

Shape = Literal["area", "dots", "line"]
Pick = Callable[[Sample], Point | None]
Points = list[tuple[float, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One curve, in pieces where nothing was seen in between."""

    name: str
    """For the legend."""
    tone: Tone
    """Its colour."""
    shape: Shape
    """How it is drawn: a filled area, one of dots, or a line."""
    pieces: tuple[tuple[tuple[float, float], ...], ...]
    """Points (seconds before the newest sample, as a negative number, and value) in unbroken pieces."""

    @property
    def top(self) -> float:
        """Its largest value."""
        return max((value for piece in self.pieces for _, value in piece), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves in one frame."""

    title: str
    """What they show."""
    curves: tuple[Curve, ...]
    """Drawn in this order, later ones over earlier ones."""
    span_s: float
    """Width in time. Seconds."""
    write: Callable[[float], str]
    """Writes a value for the axis."""
    top: float | None = None
    """Largest value of the axis; None takes that of the curves."""

    @property
    def height(self) -> float:
        """Largest value of the axis: a round number."""
        return self.top or round_up(max((curve.top for curve in self.curves), default=0.0))


Trail = tuple[tuple[float, Activity | None], ...]
"""Seconds before the newest sample, as a negative number, and what was done around then."""


def trail(samples: Sequence[Sample], span_s: float, pick: Pick) -> Trail:
    """Each sample's growth since the one that lies the smoothing time before it; several charts draw from it."""
    times = [sample.time for sample in samples]
    found: list[tuple[float, Activity | None]] = []
    for index in range(1, len(samples)):
        before = max(0, bisect_right(times, times[index] - span_s / SMOOTHING, 0, index) - 1)
        first, last = pick(samples[before]), pick(samples[index])
        seconds = times[index] - times[before]
        activity = Activity(seconds, increase(first.totals, last.totals)) if first and last else None
        found.append((_x(samples[index], samples), activity))
    return tuple(found)


def hits_chart(trail: Trail, span_s: float, title: str = "Prefix hits") -> Chart:
    """Part of prompt tokens that was cached: own hits below, cross-module hits on top of them."""
    own: Points = []
    cached: Points = []
    for x, activity in trail:
        split = activity.hits if activity else None
        own.append((x, 100 * split.own / split.prompt if split else None))
        cached.append((x, 100 * split.ratio if split else None))
    curves = (
        _curve("cross-module", "cross", "dots", cached, span_s),
        _curve("own", "own", "area", own, span_s),
    )
    return Chart(title=title, curves=curves, span_s=span_s, write=_write_percent, top=100.0)


def tokens_chart(trail: Trail, span_s: float, title: str = "Tokens/s", missed: str = "prefilled") -> Chart:
    """Tokens per second: generated, and on top of them prompt tokens that no cache held.

    `missed` says what became of those: computed, or handed to a decode worker.
    """
    generated: Points = []
    all_tokens: Points = []
    for x, activity in trail:
        made, computed = (activity.rate("generated_tokens"), activity.prefill_rate) if activity else (None, None)
        generated.append((x, made))
        all_tokens.append((x, known_sum((made, computed))))
    curves = (
        _curve(missed, "cross", "dots", all_tokens, span_s),
        _curve("generated", "own", "area", generated, span_s),
    )
    return Chart(title=title, curves=curves, span_s=span_s, write=words.short)


def latency_chart(trail: Trail, span_s: float, name: str, title: str) -> Chart:
    """A latency: median and 95th percentile."""
    curves = (
        _curve("p50", "own", "area", _quantiles(trail, name, 0.5), span_s),
        _curve("p95", "warn", "line", _quantiles(trail, name, 0.95), span_s),
    )
    return Chart(title=title, curves=curves, span_s=span_s, write=words.duration)


def load_chart(samples: Sequence[Sample], span_s: float, pick: Pick) -> Chart:
    """Calls in work, and on top of them calls waiting."""
    points = [(_x(sample, samples), pick(sample)) for sample in samples]
    running: Points = [(x, point.running if point else None) for x, point in points]
    both: Points = [(x, known_sum((point.running, point.queued)) if point else None) for x, point in points]
    curves = (
        _curve("queued", "warn", "dots", both, span_s),
        _curve("running", "own", "area", running, span_s),
    )
    return Chart(title="Calls", curves=curves, span_s=span_s, write=words.short)


def memory_chart(samples: Sequence[Sample], span_s: float, worker: str) -> Chart:
    """KV memory of a worker in use: the shared tree below, what requests hold beyond it on top."""
    shared: Points = []
    used: Points = []
    for sample in samples:
        point = sample.workers.get(worker)
        kv = point.kv if point else None
        part = 100 / kv.capacity_tokens if kv and kv.capacity_tokens else None
        x = _x(sample, samples)
        shared.append((x, (kv.shared_tokens or 0) * part if kv and part else None))
        used.append((x, ((kv.shared_tokens or 0) + (kv.private_tokens or 0)) * part if kv and part else None))
    curves = (
        _curve("private", "warn", "dots", used, span_s),
        _curve("shared", "own", "area", shared, span_s),
    )
    return Chart(title=f"{worker}: KV memory", curves=curves, span_s=span_s, write=_write_percent, top=100.0)


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ...: an axis that does not move with every value."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** floor(log10(value))
    return next(unit * step for step in (1, 2, 5, 10) if unit * step >= value * 0.9999)


def _quantiles(trail: Trail, name: str, q: float) -> Points:
    # A curve shows how it went, so that a point may stand for one call; figures want more.
    values = ((x, activity.quantile(name, q, least=1) if activity else None) for x, activity in trail)
    return [(x, value.seconds if value else None) for x, value in values]


def _write_percent(value: float) -> str:
    return f"{value:.0f}%"


def _x(sample: Sample, samples: Sequence[Sample]) -> float:
    return sample.time - samples[-1].time


def _curve(name: str, tone: Tone, shape: Shape, points: Sequence[tuple[float, float | None]], span_s: float) -> Curve:
    pieces: list[list[tuple[float, float]]] = []
    longest = max(_GAP_STEPS * _usual_step(points), span_s / SMOOTHING)
    last_x: float | None = None
    for x, value in points:
        if value is None:
            last_x = None
            continue
        if last_x is None or x - last_x > longest:
            pieces.append([])
        pieces[-1].append((x, value))
        last_x = x
    return Curve(name=name, tone=tone, shape=shape, pieces=tuple(map(tuple, pieces)))


def _usual_step(points: Sequence[tuple[float, float | None]]) -> float:
    steps = sorted(after[0] - before[0] for before, after in pairwise(points))
    return steps[len(steps) // 2] if steps else 0.0
