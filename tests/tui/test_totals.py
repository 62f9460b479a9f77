"""Counters: growth through restarts, nulls, splits and quantiles."""

import math

import pytest

from prefillshare_tui.snapshot import Handoff, Histogram, Module, Worker
from prefillshare_tui.totals import (
    HitSplit,
    Quantile,
    Totals,
    add,
    hits,
    increase,
    quantile,
    totals_of_module,
    totals_of_worker,
)

BOUNDS = (0.1, 0.2, 0.4, math.inf)


def histogram(*counts: float, total: float = 0.0) -> Histogram:
    return Histogram(BOUNDS, counts, total)


def test_growth_is_the_difference() -> None:
    grown = increase(Totals({"requests": 10, "errors": 1}), Totals({"requests": 14, "errors": 1}))
    assert grown.values == {"requests": 4, "errors": 0}


def test_a_counter_that_fell_began_again_at_0() -> None:
    assert increase(Totals({"requests": 10}), Totals({"requests": 3})).values == {"requests": 3}


def test_a_histogram_that_fell_in_one_bucket_began_again() -> None:
    before, after = histogram(5, 5, 0, 0), histogram(6, 1, 0, 0)
    assert increase(Totals({}, {"ttft": before}), Totals({}, {"ttft": after})).histograms["ttft"] == after


def test_a_histogram_grows_bucket_by_bucket() -> None:
    before, after = histogram(5, 5, 0, 0, total=1.0), histogram(6, 5, 2, 0, total=1.75)
    grown = increase(Totals({}, {"ttft": before}), Totals({}, {"ttft": after})).histograms["ttft"]
    assert grown == histogram(1, 0, 2, 0, total=0.75)


def test_a_histogram_of_other_bounds_is_another_one() -> None:
    before, after = Histogram((1.0, math.inf), (7, 7), 1.0), histogram(1, 0, 0, 0)
    assert increase(Totals({}, {"ttft": before}), Totals({}, {"ttft": after})).histograms["ttft"] == after


def test_sums_take_what_either_side_knows() -> None:
    total = add(Totals({"requests": 1}, {"ttft": histogram(1, 0, 0, 0)}), Totals({"requests": 2, "errors": 3}))
    assert total.values == {"requests": 3, "errors": 3}
    assert add(total, total).histograms["ttft"] == histogram(2, 0, 0, 0)


def test_null_counters_are_unknown_and_not_zero() -> None:
    assert totals_of_module(Module(name="math", requests=3)).values == {"requests": 3}
    assert totals_of_worker(Worker(id="w", handoff=Handoff(bytes=5))).values == {"handoff_bytes": 5}


def test_prompt_tokens_split_into_own_cross_and_missed() -> None:
    split = hits(Totals({"prompt_tokens": 1000, "own_hit_tokens": 200, "cross_hit_tokens": 300}))
    assert split == HitSplit(200, 300, 500)
    assert split.ratio == 0.5


@pytest.mark.parametrize("values", [{}, {"prompt_tokens": 0, "own_hit_tokens": 0}, {"prompt_tokens": 10}])
def test_no_split_without_prompts_or_without_knowledge(values: dict[str, float]) -> None:
    assert hits(Totals(values)) is None


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ((10, 0, 0, 0), 0.5, Quantile(0.05)),
        ((10, 10, 0, 0), 0.5, Quantile(0.1)),
        ((10, 10, 0, 0), 0.75, Quantile(0.15)),
        ((0, 0, 4, 0), 0.5, Quantile(0.3)),
        ((1, 0, 0, 9), 0.5, Quantile(0.4, is_at_least=True)),
    ],
)
def test_quantiles_are_interpolated_within_their_bucket(counts: tuple[int, ...], q: float, expected: Quantile) -> None:
    found = quantile(histogram(*counts), q)
    assert found is not None
    assert found.seconds == pytest.approx(expected.seconds)
    assert found.is_at_least == expected.is_at_least


@pytest.mark.parametrize(("q", "enough"), [(0.5, 2), (0.95, 20), (0.99, 100)])
def test_a_quantile_is_not_said_of_so_few_values_that_it_is_their_largest(q: float, enough: int) -> None:
    assert quantile(histogram(enough - 1, 0, 0, 0), q) is None
    assert quantile(histogram(enough, 0, 0, 0), q) is not None
    assert quantile(histogram(1, 0, 0, 0), q, least=1) is not None


def test_no_quantile_without_values() -> None:
    assert quantile(histogram(0, 0, 0, 0), 0.5) is None
    assert quantile(None, 0.5) is None
