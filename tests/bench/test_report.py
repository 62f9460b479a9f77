"""Table, ratios and plan, from records made by hand."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from prefillshare.bench.deadline import Deadline
from prefillshare.bench.drivers.load import Load, poisson_arrivals
from prefillshare.bench.metrics.statistics import Spread
from prefillshare.bench.metrics.summary import FIGURES, Slo
from prefillshare.bench.plan import Plan
from prefillshare.bench.progress import Progress, duration, eta_s
from prefillshare.bench.records import CallRecord, KvSample, RunRecord
from prefillshare.bench.report.plots import draw_plots
from prefillshare.bench.report.table import make_table
from prefillshare.bench.results import Result, ratio
from prefillshare.bench.store import StoredRun
from prefillshare.bench.workloads.base import Shape
from prefillshare.errors import BenchError

LOW, HIGH = Load(kind="closed", value=1), Load(kind="closed", value=4)


def _result(system: str, num_modules: int, load: Load, **medians: float) -> Result:
    figures: dict[str, Spread | None] = {figure.key: None for figure in FIGURES}
    for key, value in {"num_answered": 200.0, **medians}.items():
        figures[key] = Spread(median=value, low=value / 2, high=value * 2)
    call = CallRecord(session=0, step=0, module="a", due_s=0.0, first_s=0.5, end_s=1.0)
    run = StoredRun(record=RunRecord(calls=[call], wall_s=1.0, kv=[KvSample(at_s=0.0, tokens=3)]), context_length=64)
    return Result(num_modules=num_modules, load=load, system=system, figures=figures, runs=(run,))


def _results() -> list[Result]:
    return [
        _result(system, num_modules, load, latency_p95_s=latency * num_modules, hit_ratio=hits)
        for num_modules in (2, 4)
        for load in (LOW, HIGH)
        for system, latency, hits in (("shared", 1.0, 0.9), ("vanilla-lora", 3.0, 0.6))
    ]


def _plan(**changes: object) -> Plan:
    values = {
        "workload": "trace",
        "file": Path("/data/trace.jsonl"),
        "family": "tiny",
        "systems": ("shared", "vanilla-lora"),
        "endpoints": ("other=http://127.0.0.1:1",),
        "module_counts": (2, 4),
        "loads": (LOW, HIGH),
        "repeats": 2,
        "shape": Shape(output_tokens=(3, 4)),
        "slo": Slo(ttft_s=1.0, gap_s=0.1),
    }
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


def test_the_table_says_how_many_times_better_the_first_system_is() -> None:
    header, rows = make_table(_results())
    assert header == ["modules", "load", "figure", "shared", "vanilla-lora", "shared vs vanilla-lora"]
    assert [row[:3] for row in rows[:4]] == [
        ["2", "1 sessions at a time", "end-to-end p95 [s]"],
        ["2", "1 sessions at a time", "prefix hit ratio"],
        ["2", "1 sessions at a time", "answered calls"],
        ["2", "4 sessions at a time", "end-to-end p95 [s]"],
    ]
    assert rows[0][3:] == ["2.000 (1.000 to 4.000)", "6.000 (3.000 to 12.000)", "3.00x"]
    assert rows[1][5] == "1.50x"
    assert len(rows) == 2 * 2 * 3


def test_a_system_that_is_not_finished_leaves_a_gap() -> None:
    _, rows = make_table(_results()[:3])
    assert rows[3][3:] == ["2.000 (1.000 to 4.000)", "-", "-"]


def test_ratios_turn_with_the_meaning_of_a_figure() -> None:
    figures = {figure.key: figure for figure in FIGURES}
    ours, theirs = _results()[:2]
    assert ratio(figures["latency_p95_s"], ours, theirs) == 3.0
    assert ratio(figures["latency_p95_s"], theirs, ours) == pytest.approx(1 / 3)
    assert ratio(figures["hit_ratio"], ours, theirs) == pytest.approx(1.5)
    assert ratio(figures["ideal_own_ratio"], ours, theirs) is None
    assert ratio(figures["gap_p50_s"], ours, theirs) is None


ENOUGH = {"latency_p50_s": 1.0, "goodput_calls_per_s": 1.0, "memory_gb": 1.0, "num_within_slo": 200.0}


@pytest.mark.parametrize(
    ("key", "theirs", "said"),
    [
        ("latency_p50_s", {}, 1.0),
        ("latency_p50_s", {"num_answered": 38.0}, None),  # 19 in one of the runs
        ("latency_p50_s", {"num_answered": 40.0}, 1.0),
        ("latency_p50_s", {"num_failures": 8.0}, None),
        ("latency_p50_s", {"num_failures": 0.5}, 1.0),
        ("goodput_calls_per_s", {}, 1.0),
        ("goodput_calls_per_s", {"num_within_slo": 4.0}, None),
        ("memory_gb", {}, None),
    ],
)
def test_ratios_need_enough_answered_calls(key: str, theirs: dict[str, float], said: float | None) -> None:
    figure = next(figure for figure in FIGURES if figure.key == key)
    shared, other = _result("shared", 2, LOW, **ENOUGH), _result("vanilla-lora", 2, LOW, **{**ENOUGH, **theirs})
    assert ratio(figure, shared, other) == said
    assert ratio(figure, other, shared) == said


def test_plots_over_modules_come_with_several_numbers_of_modules(tmp_path: Path) -> None:
    files = draw_plots(_results(), tmp_path)
    per_count = {"latency-cdf", "p95-over-load", "throughput-over-load", "hit-ratio-over-load", "kv-over-time"}
    over_counts = {"hit-ratio-over-modules", "p95-over-modules", "kv-peak-over-modules"}
    assert {file.stem for file in files} == over_counts | {f"{stem}-n{count}" for stem in per_count for count in (2, 4)}
    for file in files:
        assert file.read_text().startswith("<?xml")
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_plots_over_load_come_with_several_loads(tmp_path: Path) -> None:
    files = draw_plots([result for result in _results() if result.load == LOW], tmp_path)
    assert "latency-cdf-n2" in {file.stem for file in files}
    assert not [file for file in files if "over-load" in file.name]


def test_systems_take_turns_within_each_number_of_modules() -> None:
    order = [(group[0].num_modules, group[0].repeat, group[0].system) for group in _plan().groups()]
    systems = ("shared", "vanilla-lora", "other")
    assert order == [(n, repeat, system) for n in (2, 4) for repeat in (1, 2) for system in systems]
    assert all(len(group) == 2 for group in _plan().groups())
    cells = [cell.key for group in _plan().groups() for cell in group]
    assert len(set(cells)) == len(cells) == 24


def test_a_plan_survives_json() -> None:
    assert Plan.from_dict(_plan().as_dict()) == _plan()


def test_a_closed_loop_has_enough_sessions_for_its_concurrency() -> None:
    plan = _plan(shape=Shape(num_sessions=5))
    assert [plan.shape_for(Load(kind="closed", value=value), 64).num_sessions for value in (1, 4)] == [5, 8]
    assert plan.shape_for(Load(kind="poisson", value=40), 64).num_sessions == 5
    assert plan.shape_for(LOW, 64).context_length == 64


@pytest.mark.parametrize(
    "change", [{"loads": ()}, {"module_counts": (0,)}, {"repeats": 0}, {"systems": ("shared", "shared")}]
)
def test_plans_that_measure_nothing_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BenchError):
        _plan(**change)


@pytest.mark.parametrize("load", [("closed", 1.5), ("poisson", 0), ("timed", -1)])
def test_loads_that_make_no_sense_are_refused(load: tuple[str, float]) -> None:
    with pytest.raises(BenchError, match="load"):
        Load(kind=load[0], value=load[1])  # type: ignore[arg-type]


def test_arrivals_are_poisson_and_only_stretched_by_another_rate() -> None:
    slow, fast = poisson_arrivals(4000, 2.0, seed=1), poisson_arrivals(4000, 4.0, seed=1)
    assert slow == pytest.approx([2 * arrival for arrival in fast])
    gaps = [after - before for before, after in pairwise(slow)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.5, rel=0.05)
    # The standard deviation of exponential gaps is their mean.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.05)


def test_a_deadline_leaves_time_for_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("prefillshare.bench.deadline.time", SimpleNamespace(monotonic=lambda: now))
    long, short, none = Deadline(600.0), Deadline(40.0), Deadline(None)
    assert [deadline.left_s for deadline in (long, short, none)] == [580.0, 30.0, float("inf")]
    now += 100.0
    assert [deadline.left_s for deadline in (long, short, none)] == [480.0, 0.0, float("inf")]


def test_no_more_time_is_estimated_than_a_deadline_allows() -> None:
    lines: list[str] = []
    progress = Progress(1000, tell=lines.append, most_left_s=lambda: 0.0)
    progress.call()
    progress.end("done")
    assert lines == ["[1/1000 calls, 0 s left] : done"]


def test_the_rest_is_estimated_at_the_pace_so_far() -> None:
    assert eta_s(0, 10, 5.0) is None
    assert eta_s(4, 10, 8.0) == 12.0
    assert [duration(seconds) for seconds in (12, 59.4, 90, 3700)] == ["12 s", "59 s", "2 min", "1 h 02 min"]
