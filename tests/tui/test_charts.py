"""Curves: smoothing, gaps and axes."""

import pytest

from prefillshare_tui.charts import (
    hits_chart,
    latency_chart,
    load_chart,
    memory_chart,
    round_up,
    tokens_chart,
    trail,
)
from prefillshare_tui.history import History, Sample
from prefillshare_tui.snapshot import Histogram, Kv, Module, Snapshot, Worker
from tests.support.dashboard import snapshots


def samples_of(*states: Snapshot) -> tuple[Sample, ...]:
    history = History()
    for snapshot in states:
        history.add(snapshot)
    return history.window(60.0)


def counted(time: float, prompt: float, own: float, cross: float, *, generated: float = 0) -> Snapshot:
    module = Module(
        name="math", prompt_tokens=prompt, own_hit_tokens=own, cross_hit_tokens=cross, generated_tokens=generated
    )
    return Snapshot(time=time, modules=(module,))


def total_trail(samples: tuple[Sample, ...]) -> tuple:
    return trail(samples, 60.0, lambda sample: sample.total)


def test_cross_module_hits_stand_on_own_ones() -> None:
    chart = hits_chart(total_trail(samples_of(counted(0, 0, 0, 0), counted(10, 100, 20, 50))), 60.0)
    cached, own = chart.curves
    assert own.pieces == (((0.0, 20.0),),)
    assert cached.pieces == (((0.0, 70.0),),)
    assert chart.height == 100


def test_a_time_without_prompts_is_a_gap_and_not_zero() -> None:
    states = [counted(0, 0, 0, 0), counted(4, 100, 0, 50), counted(8, 100, 0, 50), counted(12, 200, 0, 100)]
    chart = hits_chart(total_trail(samples_of(*states)), 60.0)
    assert [[x for x, _ in piece] for piece in chart.curves[0].pieces] == [[-8.0], [0.0]]


def test_a_time_in_which_nothing_was_seen_is_a_gap() -> None:
    times = [0, 1, 2, 3, 30, 31, 32]
    chart = tokens_chart(total_trail(samples_of(*(counted(t, t, 0, 0, generated=t) for t in times))), 60.0)
    assert [len(piece) for piece in chart.curves[1].pieces] == [3, 3]


def test_rates_are_means_over_the_smoothing_time() -> None:
    states = [counted(second, 0, 0, 0, generated=30 if second >= 10 else 0) for second in range(14)]
    generated = dict(tokens_chart(total_trail(samples_of(*states)), 60.0).curves[1].pieces[0])
    # A 20th of a minute is 3 s: 30 tokens within one second are 10 a second over three of them.
    assert [generated[x] for x in (-4.0, -3.0, -2.0, -1.0, 0.0)] == [0, 10, 10, 10, 0]


def test_latencies_are_those_of_the_time_around_a_point() -> None:
    def state(time: float, fast: int, slow: int) -> Snapshot:
        histogram = Histogram((0.1, 0.2, float("inf")), (fast, slow, 0), 0.0)
        return Snapshot(time=time, modules=(Module(name="math", latency={"ttft": histogram}),))

    chart = latency_chart(
        total_trail(samples_of(state(0, 0, 0), state(5, 10, 0), state(10, 10, 10))), 60.0, "ttft", "T"
    )
    median = chart.curves[0].pieces[0]
    assert [round(value, 3) for _, value in median] == [0.05, 0.15]


def test_waiting_calls_stand_on_running_ones() -> None:
    states = [Snapshot(time=t, modules=(Module(name="m", running=2, queued=t),)) for t in (0.0, 1.0)]
    both, running = load_chart(samples_of(*states), 60.0, lambda sample: sample.total).curves
    assert [value for _, value in running.pieces[0]] == [2, 2]
    assert [value for _, value in both.pieces[0]] == [2, 3]


def test_memory_is_a_part_of_the_capacity() -> None:
    kv = Kv(capacity_tokens=200, shared_tokens=100, private_tokens=20)
    chart = memory_chart(samples_of(Snapshot(time=1.0, workers=(Worker(id="w", kv=kv),))), 60.0, "w")
    assert [curve.top for curve in chart.curves] == [60, 50]


def test_an_unknown_worker_has_an_empty_chart() -> None:
    chart = memory_chart(samples_of(*snapshots(3)), 60.0, "nobody")
    assert all(curve.pieces == () for curve in chart.curves)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 1), (0.0003, 0.0005), (0.7, 1), (1, 1), (1.2, 2), (4, 5), (51, 100), (3210, 5000)]
)
def test_axes_end_at_round_numbers(value: float, expected: float) -> None:
    assert round_up(value) == pytest.approx(expected)
