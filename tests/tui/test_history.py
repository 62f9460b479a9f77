"""Windows, rates over them, and what a restarted server or worker does to them."""

import dataclasses

import pytest

from prefillshare_tui.history import POINTS_PER_SPAN, SPANS_S, History
from prefillshare_tui.snapshot import Kv, Module, Snapshot, Worker
from prefillshare_tui.view import view_of_window, view_since_start


def state(time: float, requests: float | None, *, started: float = 0.0, worker: Worker | None = None) -> Snapshot:
    module = Module(name="math", requests=requests, generated_tokens=None if requests is None else 10 * requests)
    return Snapshot(time=time, started=started, modules=(module,), workers=(worker,) if worker else ())


def history_of(*states: Snapshot) -> History:
    history = History()
    for snapshot in states:
        history.add(snapshot)
    return history


def test_rates_are_growth_over_the_servers_own_time() -> None:
    last = state(14.0, 28)
    view = view_of_window(last, history_of(state(10.0, 20), last), 60.0)
    assert view.total.rate("requests") == 2
    assert view.modules["math"].rate("generated_tokens") == 20


def test_one_sample_has_no_rate() -> None:
    last = state(10.0, 20)
    view = view_of_window(last, history_of(last), 60.0)
    assert view.total.rate("requests") is None
    assert view.total.hits is None


def test_growth_goes_on_through_a_restart_of_the_server() -> None:
    last = state(12.0, 25, started=11.0)
    view = view_of_window(last, history_of(state(10.0, 20), last), 60.0)
    # 25 is more than 20, but all of it was counted since the restart.
    assert view.total.grown.get("requests") == 25


def test_growth_goes_on_through_a_restart_of_a_worker() -> None:
    first = Worker(id="w", pid=1, generated_tokens=100)
    again = dataclasses.replace(first, pid=2, generated_tokens=130)
    last = state(11.0, 0, worker=again)
    view = view_of_window(last, history_of(state(10.0, 0, worker=first), last), 60.0)
    assert view.workers["w"].grown.get("generated_tokens") == 130


def test_a_worker_that_does_not_answer_for_a_while_loses_nothing() -> None:
    first = Worker(id="w", generated_tokens=100)
    silent, last = Worker(id="w"), state(12.0, 0, worker=dataclasses.replace(first, generated_tokens=104))
    history = history_of(state(10.0, 0, worker=first), state(11.0, 0, worker=silent), last)
    assert view_of_window(last, history, 60.0).workers["w"].grown.get("generated_tokens") == 4


def test_a_worker_that_joins_counts_from_when_it_was_first_seen() -> None:
    worker = Worker(id="w", generated_tokens=1000)
    last = state(12.0, 0, worker=dataclasses.replace(worker, generated_tokens=1006))
    view = view_of_window(last, history_of(state(10.0, 0), state(11.0, 0, worker=worker), last), 60.0)
    assert view.workers["w"].grown.get("generated_tokens") == 6


def test_a_state_that_is_not_newer_changes_nothing() -> None:
    history = history_of(state(10.0, 20))
    assert history.add(state(10.0, 30)) is False
    assert history.add(state(9.0, 30)) is False
    assert history.add(state(11.0, 30)) is True
    assert len(history.window(60.0)) == 2


def test_a_server_whose_clock_is_behind_begins_a_new_history() -> None:
    history = history_of(state(10.0, 20), state(11.0, 21))
    assert history.add(state(5.0, 2, started=4.0)) is True
    assert [sample.time for sample in history.window(60.0)] == [5.0]


def test_windows_end_at_the_newest_sample_and_reach_back_their_span() -> None:
    history = history_of(*(state(float(second), 2 * second) for second in range(2000)))
    for span_s in SPANS_S:
        samples = history.window(span_s)
        step_s = span_s / POINTS_PER_SPAN
        assert samples[-1].time == 1999.0
        assert span_s <= 1999.0 - samples[0].time < span_s + step_s + 1
        assert len(samples) <= POINTS_PER_SPAN + 2
        view = view_of_window(state(1999.0, 3998), history, span_s)
        assert view.total.rate("requests") == pytest.approx(2)


def test_gauges_of_modules_are_summed_and_unknown_ones_are_left_out() -> None:
    history = History()
    modules = (Module(name="math", running=2), Module(name="tool", running=1), Module(name="code"))
    history.add(Snapshot(time=1.0, modules=modules))
    assert history.last is not None
    assert history.last.total.running == 3
    assert history.last.total.queued is None


def test_memory_of_a_worker_is_remembered() -> None:
    history = history_of(state(1.0, 0, worker=Worker(id="w", kv=Kv(capacity_tokens=8))))
    assert history.window(60.0)[0].workers["w"].kv == Kv(capacity_tokens=8)


def test_one_snapshot_alone_is_counted_since_the_start() -> None:
    view = view_since_start(state(110.0, 20, started=100.0))
    assert view.total.rate("requests") == 2
