"""Buckets, sums and differences of histograms."""

import pytest

from prefillshare.observe.histogram import Histogram


def test_a_value_on_a_bound_belongs_to_that_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 7.0):
        histogram.observe(value)
    told = histogram.as_dict()
    assert told["le"] == [0.1, 1.0, None]
    assert told["counts"] == [2, 2, 1]
    assert told["count"] == 5
    assert told["sum"] == pytest.approx(8.65)


def test_one_interval_counts_for_each_of_its_tokens() -> None:
    histogram = Histogram((0.1,))
    histogram.observe(0.05, times=4)
    assert histogram.as_dict() == {"le": [0.1, None], "counts": [4, 0], "sum": pytest.approx(0.2), "count": 4}


@pytest.mark.parametrize(("value", "times"), [(0.05, 0), (0.05, -1), (float("nan"), 1), (float("inf"), 1)])
def test_what_is_no_value_changes_nothing(value: float, times: int) -> None:
    histogram = Histogram((0.1,))
    histogram.observe(value, times)
    assert histogram.count == 0
    assert histogram.sum == 0


def test_a_clock_that_was_set_back_counts_as_no_time() -> None:
    histogram = Histogram((0.1,))
    histogram.observe(-3.0)
    assert histogram.as_dict()["counts"] == [1, 0]
    assert histogram.sum == 0


def test_what_was_added_can_be_taken_away() -> None:
    first, second = Histogram((1.0,)), Histogram((1.0,))
    first.observe(0.5, 2)
    second.observe(3.0)
    second.add(first.as_dict())
    assert second.counts == [2, 1]
    second.add(first.as_dict(), sign=-1)
    assert second.counts == [0, 1]
    assert second.sum == pytest.approx(3.0)
