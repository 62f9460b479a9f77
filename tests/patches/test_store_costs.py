"""A load is made only where it beats prefilling, by measures that one slow moment does not turn."""

from sglang_patches.store.costs import (
    DECLINED_BEFORE_TRIAL,
    MIN_SAMPLE_TOKENS,
    MIN_SAMPLES,
    UNKNOWN_FETCH_S,
    LoadCosts,
)


def measured(*, load_s: float, prefill_s: float) -> LoadCosts:
    """Costs after enough work of both kinds, in seconds per token."""
    costs = LoadCosts()
    for _ in range(MIN_SAMPLES):
        costs.load.add(1000, 1000 * load_s)
        costs.prefill.add(1000, 1000 * prefill_s)
    return costs


def test_before_anything_was_measured_what_is_there_is_loaded():
    costs = LoadCosts()
    assert costs.should_load(16)
    costs.load.add(1000, 10.0)
    assert costs.should_load(16)


def test_what_is_loaded_more_slowly_than_prefilled_is_declined_and_counted():
    assert measured(load_s=1e-5, prefill_s=1e-4).should_load(4096)
    slow = measured(load_s=1e-4, prefill_s=1e-5)
    assert not slow.should_load(4096)
    assert slow.num_declined == 1


def test_a_declined_kind_is_tried_again_so_that_its_measure_can_change():
    costs = measured(load_s=1e-4, prefill_s=1e-5)
    decided = [costs.should_load(64) for _ in range(2 * DECLINED_BEFORE_TRIAL + 2)]
    assert decided.count(True) == 2
    assert decided[DECLINED_BEFORE_TRIAL]
    for _ in range(8):
        costs.load.add(64, 64 * 1e-6)
    assert costs.should_load(64)


def test_one_slow_moment_and_small_pieces_say_nothing():
    costs = measured(load_s=1e-5, prefill_s=1e-4)
    costs.load.add(1000, 60.0)
    costs.load.add(1000, 60.0)
    for _ in range(100):
        costs.load.add(MIN_SAMPLE_TOKENS - 1, 60.0)
    assert costs.should_load(1000)


def test_a_batch_counts_once_with_all_of_its_requests_and_from_the_end_of_the_one_before():
    now = [0.0]
    costs = LoadCosts(clock=lambda: now[0])
    # Batches of two requests, each begun while the one before runs; each takes a second beyond that.
    for number in range(MIN_SAMPLES + 1):
        now[0] = number + 2.0
        for num_tokens in (100, 300):
            costs.finish_prefill(num_tokens, began=number + 0.5)
    assert costs.prefill.token_s is not None
    # The first one alone began with nothing before it.
    assert abs(costs.prefill.token_s - 1.0 / 400) < 1e-9


def test_other_hosts_are_asked_where_fetching_and_loading_together_beat_prefilling():
    costs = measured(load_s=4e-5, prefill_s=1e-4)
    assert costs.should_fetch(64)  # not measured yet
    for _ in range(MIN_SAMPLES):
        costs.fetch.add(1000, 1000 * 5e-5)
    assert costs.should_fetch(64)
    for _ in range(20):
        costs.fetch.add(1000, 1000 * 7e-5)
    assert not costs.should_fetch(64)
    assert costs.num_declined == 1
    assert costs.should_load(64)


def test_a_call_waits_for_other_hosts_as_long_as_prefilling_would_take():
    assert measured(load_s=1e-5, prefill_s=1e-4).longest_fetch_s(2000) == 2000 * 1e-4
    assert LoadCosts().longest_fetch_s(2000) == UNKNOWN_FETCH_S
