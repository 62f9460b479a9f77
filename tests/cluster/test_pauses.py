"""When a member that failed is tried again."""

from prefillshare.cluster.pauses import FIRST_PAUSE_S, LONGEST_PAUSE_S, Pauses
from tests.support.clock import Clock


def serve(pauses: Pauses, clock: Clock, seconds: float) -> None:
    """Let it serve for so long."""
    end = clock.now + seconds
    while clock.now < end:
        pauses.note(True)
        clock.now += 0.5
    pauses.note(True)


def fail_often(pauses: Pauses) -> list[float]:
    return [pauses.take() for _ in range(8)]


LONGER_AND_LONGER = [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_what_fails_at_once_is_tried_less_and_less_often() -> None:
    assert fail_often(Pauses(Clock())) == LONGER_AND_LONGER


def test_after_a_good_time_it_is_tried_again_soon() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    fail_often(pauses)
    serve(pauses, clock, LONGEST_PAUSE_S)
    assert fail_often(pauses) == LONGER_AND_LONGER


def test_a_start_and_a_short_life_are_no_good_time() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    fail_often(pauses)
    for _ in range(3):
        pauses.note(False)
        clock.now += 10 * LONGEST_PAUSE_S  # a start that takes long
        serve(pauses, clock, LONGEST_PAUSE_S - 1)
        assert pauses.take() == LONGEST_PAUSE_S
        clock.now += 10 * LONGEST_PAUSE_S


def test_what_died_after_a_good_time_is_tried_again_soon_however_often_it_was_started_since() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    fail_often(pauses)
    serve(pauses, clock, 2 * LONGEST_PAUSE_S)
    for _ in range(5):
        pauses.note(False)
        clock.now += 30.0
    assert pauses.take() == FIRST_PAUSE_S
