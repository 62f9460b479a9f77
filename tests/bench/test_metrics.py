"""Figures against values computed by hand."""

import pytest

from prefillshare.bench.metrics.statistics import Spread, percentile, spread
from prefillshare.bench.metrics.summary import FIGURES, Slo, summarise
from prefillshare.bench.records import CallRecord, KvSample, RunRecord
from prefillshare.bench.workloads.base import Session, Step, Workload

SLO = Slo(ttft_s=0.5, gap_s=0.1)


def _workload() -> Workload:
    """Two sessions of two calls: 4 tokens, an answer of 2, 2 more tokens; the second starts with other tokens."""
    sessions = tuple(
        Session(
            steps=(
                Step(module="a", added=(number, 2, 3, 4), output_tokens=2),
                Step(module="b", added=(7, 8), output_tokens=2),
            )
        )
        for number in (20, 21)
    )
    return Workload(name="react", modules=("a", "b"), sessions=sessions)


def _run() -> RunRecord:
    def call(session: int, step: int, due: float, first: float, end: float, cached: int) -> CallRecord:
        return CallRecord(
            session=session,
            step=step,
            module="ab"[step],
            due_s=due,
            first_s=first,
            end_s=end,
            gaps_s=[end - first],
            cached_tokens=cached,
            output=[5, 6],
            handoff_bytes=1_000_000,
        )

    calls = [
        call(0, 0, 0.0, 0.25, 0.30, 0),
        call(1, 0, 0.1, 0.50, 1.00, 0),
        call(0, 1, 0.3, 0.90, 0.95, 4),
        CallRecord(session=1, step=1, module="b", due_s=1.0, end_s=1.5, error="HTTP 500"),
    ]
    return RunRecord(
        calls=calls,
        wall_s=2.0,
        kv=[KvSample(at_s=0.1, tokens=7), KvSample(at_s=0.4, tokens=11)],
        prefilled_tokens=13,
        memory_gb=0.25,
    )


def test_figures_of_a_run() -> None:
    figures = summarise(_workload(), _run(), SLO, shares=True)
    # Latencies 0.30, 0.90, 0.65; times to first token 0.25, 0.40, 0.60.
    assert figures["latency_p50_s"] == pytest.approx(0.65)
    assert figures["latency_p95_s"] is figures["latency_p99_s"] is None  # of three calls
    assert figures["ttft_p50_s"] == pytest.approx(0.40)
    assert figures["gap_p50_s"] == pytest.approx(0.05)
    # Only session 0 was answered in full.
    assert figures["session_p50_s"] is figures["session_p95_s"] is None
    assert figures["num_answered"] == 3
    assert figures["num_within_slo"] == 1
    assert figures["output_tokens_per_s"] == 3.0
    assert figures["calls_per_s"] == 1.5
    # One call was in time; one was slow between tokens, one slow to the first.
    assert figures["goodput_calls_per_s"] == 0.5
    # Prompts of 4, 4 and 8 tokens; an infinite cache holds 4 of the last one's, b's own nothing.
    assert figures["hit_ratio"] == 1 - 13 / 16
    assert figures["ideal_shared_ratio"] == 4 / 16
    assert figures["ideal_own_ratio"] == 0
    assert figures["hit_of_ideal"] == (1 - 13 / 16) / (4 / 16)
    assert figures["prefill_per_unique"] == 13 / 12
    # The last prompt begins with a prompt of 4 tokens and its answer of 2: 4 + 4 + 2 were new.
    assert figures["ideal_answers_ratio"] == 6 / 16
    assert figures["waited_per_new"] == figures["prefill_per_new"] == 13 / 10
    assert figures["cross_module_share"] == 1.0
    assert figures["kv_peak_tokens"] == 11
    assert figures["memory_gb"] == 0.25
    assert figures["handoff_mb"] == 3.0
    assert figures["num_failures"] == 1


def test_calls_that_were_never_sent_have_failed() -> None:
    run = _run()
    run.calls[2].error = "HTTP 503"
    del run.calls[3]
    assert summarise(_workload(), run, SLO, shares=True)["num_failures"] == 2


def test_calls_that_a_cut_run_did_not_get_to_have_not_failed() -> None:
    run = _run()
    del run.calls[2:]
    run.cut_s, run.wall_s, run.prefilled_tokens = 4.0, 4.0, None
    figures = summarise(_workload(), run, SLO, shares=True)
    assert figures["num_failures"] == 0
    assert figures["num_answered"] == 2
    assert figures["cut_s"] == 4.0
    assert figures["output_tokens_per_s"] == 1.0
    assert figures["hit_ratio"] == 0.0


def test_without_the_engines_word_the_answers_count() -> None:
    run = _run()
    run.prefilled_tokens = None
    figures = summarise(_workload(), run, SLO, shares=True)
    assert figures["hit_ratio"] == 4 / 16
    assert figures["prefill_per_unique"] == 1.0


def test_what_nobody_says_is_missing() -> None:
    run = _run()
    run.prefilled_tokens, run.kv = None, []
    for call in run.calls:
        call.cached_tokens = call.handoff_bytes = None
    figures = summarise(_workload(), run, SLO, shares=True)
    for key in ("hit_ratio", "prefill_per_unique", "cross_module_share", "kv_peak_tokens", "handoff_mb"):
        assert figures[key] is None


def test_a_cache_per_module_is_held_against_its_own_ideal() -> None:
    run = _run()
    run.calls[2].module = "a"  # its own prompt of 4 tokens and answer of 2 come back, with 2 new tokens
    figures = summarise(_workload(), run, SLO, shares=False)
    assert figures["ideal_own_ratio"] == 6 / 16
    assert figures["hit_of_ideal"] == (1 - 13 / 16) / (6 / 16)
    assert figures["cross_module_share"] == 0.0


def test_what_was_computed_before_a_call_asked_for_it_was_not_waited_for() -> None:
    run = _run()
    run.eager_tokens = 2
    figures = summarise(_workload(), run, SLO, shares=True)
    assert figures["waited_per_new"] == 11 / 10
    assert figures["prefill_per_new"] == 13 / 10


def test_a_cache_with_the_answers_is_held_against_an_ideal_with_them() -> None:
    figures = summarise(_workload(), _run(), SLO, shares=True, keeps_answers=True)
    assert figures["hit_of_ideal"] == (1 - 13 / 16) / (6 / 16)


def test_of_an_endpoint_nobody_knows_whose_hits_they_are() -> None:
    assert summarise(_workload(), _run(), SLO, shares=None)["cross_module_share"] is None


def test_every_figure_of_the_table_is_computed() -> None:
    assert set(summarise(_workload(), _run(), SLO, shares=True)) == {figure.key for figure in FIGURES}


def test_records_survive_json() -> None:
    run = _run()
    assert RunRecord.from_dict(run.as_dict()) == run


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (95, 95), (99, 99), (100, 100), (1, 1)])
def test_percentiles_are_values_that_occurred(percent: int, expected: int) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected


def test_percentiles_of_few_values() -> None:
    assert percentile([], 95) is None
    assert percentile([3.0, 1.0], 50) == 1.0
    assert percentile([3.0, 1.0], 95) is None


@pytest.mark.parametrize(("percent", "enough"), [(95, 20), (99, 100)])
def test_a_percentile_is_not_said_of_so_few_values_that_it_is_the_largest(percent: int, enough: int) -> None:
    assert percentile([1.0] * (enough - 1), percent) is None
    assert percentile([*[1.0] * (enough - 1), 9.0], percent) == 1.0


def test_spread_is_median_and_range_of_what_is_known() -> None:
    assert spread([3.0, None, 1.0, 9.0]) == Spread(median=3.0, low=1.0, high=9.0)
    assert spread([None]) is None
