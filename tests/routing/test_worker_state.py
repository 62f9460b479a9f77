"""Circuit breaker and speed estimate, with a clock that the test turns."""

import pytest

from prefillshare.routing.workers.breaker import Breaker
from prefillshare.routing.workers.speed import PrefillSpeed
from tests.support.clock import Clock


def _breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, open_s=5.0, max_open_s=15.0, clock=clock)


def _trip(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.begin_call()
        breaker.record_failure()


def test_three_failures_in_a_row_open_it() -> None:
    breaker = _breaker(Clock(100.0))
    breaker.record_failure()
    breaker.record_failure()
    breaker.record_success()
    breaker.record_failure()
    assert breaker.can_pass
    _trip(breaker)
    assert (breaker.state, breaker.can_pass) == ("open", False)


def test_one_trial_closes_it_or_doubles_the_pause() -> None:
    clock = Clock(100.0)
    breaker = _breaker(clock)
    _trip(breaker)
    for pause_s in (5.0, 10.0, 15.0, 15.0):
        clock.now += pause_s - 0.1
        assert not breaker.can_pass
        clock.now += 0.1
        assert breaker.state == "half_open"
        breaker.begin_call()
        assert not breaker.can_pass
        breaker.record_failure()
    clock.now += 15.0
    breaker.begin_call()
    breaker.record_success()
    assert (breaker.state, breaker.can_pass) == ("closed", True)


def test_a_trial_that_the_client_left_lets_the_next_one_try() -> None:
    clock = Clock(100.0)
    breaker = _breaker(clock)
    _trip(breaker)
    clock.now += 5.0
    breaker.begin_call()
    breaker.record_nothing()
    assert breaker.can_pass


def test_late_failures_of_calls_from_before_do_not_lengthen_the_pause() -> None:
    clock = Clock(100.0)
    breaker = _breaker(clock)
    _trip(breaker)
    clock.now += 4.0
    breaker.record_failure()
    clock.now += 1.0
    assert breaker.can_pass


def test_speed_follows_what_is_seen() -> None:
    clock = Clock(100.0)
    speed = PrefillSpeed(2000.0, clock)
    for _ in range(30):
        started = speed.begin(500)
        clock.now += 1.0
        speed.finish(500, 500, started)
    assert speed.tokens_per_s == pytest.approx(500, rel=0.01)
    assert speed.pending_tokens == 0


def test_calls_computed_together_are_not_counted_as_slow() -> None:
    clock = Clock(100.0)
    speed = PrefillSpeed(1000.0, clock)
    for _ in range(20):
        started = [speed.begin(1000) for _ in range(4)]
        for begun in started:
            clock.now += 1.0
            speed.finish(1000, 1000, begun)
    assert speed.tokens_per_s == pytest.approx(1000, rel=0.01)


def test_the_wait_is_what_was_given_over_the_speed() -> None:
    speed = PrefillSpeed(2000.0, Clock(100.0))
    started = speed.begin(3000)
    assert speed.wait_s == pytest.approx(1.5)
    speed.finish(3000, None, started)
    assert speed.wait_s == 0


def test_tiny_or_failed_calls_say_nothing_about_the_speed() -> None:
    clock = Clock(100.0)
    speed = PrefillSpeed(2000.0, clock)
    for computed in (None, 3):
        started = speed.begin(100)
        clock.now += 5.0
        speed.finish(100, computed, started)
    assert speed.tokens_per_s == 2000.0
