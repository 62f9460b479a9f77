"""Counters of workers that start again only rise."""

from prefillshare.observe.histogram import ITL_S, TTFT_S, Histogram
from prefillshare.observe.observer import Observer
from prefillshare.observe.reports import WorkerReport


def told(
    started: float, generated: int, *, prompt: int = 0, seconds: float | None = None, is_eager: bool = False
) -> dict:
    """What a decode worker for math tells after `generated` tokens."""
    latencies = {}
    for name, bounds in (("ttft", TTFT_S), ("itl", ITL_S)):
        histogram = Histogram(bounds)
        histogram.observe(0.02, generated)
        latencies[name] = histogram.as_dict()
    counters = {"prompt_tokens": prompt, "cached_tokens": 1, "generated_tokens": generated, "retractions": 0}
    return {
        "started": started,
        "modules": [
            {"name": "base"},
            {"name": "math", "generated_tokens": generated, "retractions": 0, "latency": latencies},
        ],
        "workers": [
            {
                **counters,
                # As of an earlier version: it does not say which way KV went.
                "handoff": {"tokens": generated, "bytes": 10, "seconds": seconds, "calls": 1},
                "eager": computed_ahead(generated) if is_eager else None,
            }
        ],
    }


def computed_ahead(generated: int) -> dict[str, int]:
    return {"tokens": 2 * generated, "hit_tokens": generated, "dropped": 1, "loaded_tokens": 3, "waiting": generated}


def test_the_same_start_adds_the_difference_and_a_new_start_all_of_it() -> None:
    observer, report = Observer(clock=lambda: 0.0), WorkerReport()
    starts = [report.take(one, observer, "math") for one in (told(1.0, 5), told(1.0, 8), told(1.0, 8), told(2.0, 3))]
    assert starts == [False, False, False, True]
    stats = observer.stats_of("math")
    assert stats.generated_tokens == 5 + 3 + 0 + 3
    assert (stats.ttft.count, stats.itl.count) == (11, 11)
    assert report.totals["generated_tokens"] == 11
    assert (report.handoffs.tokens, report.handoffs.calls) == (11, 2)
    assert report.handoffs.seconds is None
    assert report.eager is None


def test_what_was_computed_ahead_rises_over_starts() -> None:
    observer, report = Observer(clock=lambda: 0.0), WorkerReport()
    for started, generated in ((1.0, 5), (1.0, 8), (1.0, 8), (2.0, 3)):
        report.take(told(started, generated, is_eager=True), observer, None)
    assert report.eager == {"tokens": 22, "hit_tokens": 11, "dropped": 2, "loaded_tokens": 6, "waiting": 3}


def test_a_prefill_worker_counts_for_no_module() -> None:
    observer, report = Observer(clock=lambda: 0.0), WorkerReport()
    report.take(told(1.0, 0, prompt=40, seconds=0.5), observer, None)
    report.take(told(1.0, 0, prompt=70, seconds=0.75), observer, None)
    assert report.totals["prompt_tokens"] == 70
    assert report.handoffs.seconds == 0.75
    assert observer.modules == {}


def test_handoffs_into_memory_are_added_up_over_starts() -> None:
    observer, report = Observer(clock=lambda: 0.0), WorkerReport()
    for started, calls in ((1.0, 2), (1.0, 3), (2.0, 1)):
        document = told(started, 0)
        document["workers"][0]["handoff"] |= {"memory_calls": calls, "memory_bytes": 10 * calls}
        report.take(document, observer, None)
    assert (report.handoffs.memory_calls, report.handoffs.memory_bytes) == (4, 40)


def test_a_module_that_the_worker_does_not_name_is_left_alone() -> None:
    observer, report = Observer(clock=lambda: 0.0), WorkerReport()
    report.take(told(1.0, 5), observer, "other")
    assert observer.modules == {}
    assert report.totals["generated_tokens"] == 5
