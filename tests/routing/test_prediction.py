"""Which module a session is expected to call next, and when nobody is to rely on it."""

import random
from itertools import cycle, islice

import pytest

from prefillshare.routing.eager.prediction import MAX_HISTORY, Predictor, guess_next

ROUNDS = 6


def follow(predictor: Predictor, calls: list[str], session: str = "s") -> list[str | None]:
    """After each call, the module that is expected next."""
    expected = []
    for module in calls:
        predictor.note_call(session, module)
        expected.append(predictor.next_module(session))
    return expected


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ("", None),
        ("A", None),
        ("AB", None),
        ("AA", "A"),
        ("ABCA", "B"),
        ("ABCABC", "A"),
        ("AAB", None),
        ("AABA", "A"),
        ("AABAA", "B"),
        ("AABAAB", "A"),
        ("ABACABACA", "B"),
        ("XYZABAB", "A"),
    ],
)
def test_the_longest_stretch_that_ends_alike_tells_what_follows(history: str, expected: str | None) -> None:
    assert guess_next(list(history)) == expected


@pytest.mark.parametrize(
    ("period", "num_rounds"), [("A", 2), ("AB", 2), ("ABC", 2), ("AAB", 2), ("ABBC", 2), ("ABCDEFGH", 2), ("AABAC", 3)]
)
def test_a_session_in_turns_is_predicted_after_some_rounds(period: str, num_rounds: int) -> None:
    calls = list(islice(cycle(period), ROUNDS * len(period)))
    expected = follow(Predictor(10), calls)
    # The first round tells what there is and the second one shows that it repeats itself.
    start = num_rounds * len(period)
    assert expected[start:-1] == calls[start + 1 :]


def test_a_new_session_is_predicted_by_the_habits_of_others_once_it_has_shown_to_have_them() -> None:
    predictor = Predictor(10)
    follow(predictor, list("ABCABC"), "old")
    assert follow(predictor, list("ABC"), "new") == [None, "C", "A"]


@pytest.mark.parametrize("num_modules", [3, 4, 8])
@pytest.mark.parametrize("seed", range(20))
def test_a_session_at_random_is_not_predicted_after_a_few_misses(num_modules: int, seed: int) -> None:
    chance = random.Random(seed)
    expected = follow(Predictor(10), [chance.choice("ABCDEFGH"[:num_modules]) for _ in range(200)])
    assert sum(module is not None for module in expected[:12]) < 8
    assert all(module is None for module in expected[24:])


def test_a_session_that_changes_its_ways_is_predicted_again() -> None:
    calls = list("AB" * 20 + "ABC" * 40)
    expected = follow(Predictor(10), calls)
    assert expected[-31:-1] == calls[-30:]


def test_sessions_are_forgotten_beyond_the_limit() -> None:
    predictor = Predictor(2)
    for session in ("a", "b", "c"):
        follow(predictor, list("AB" * 5), session)
    assert [predictor.next_module(session) for session in ("a", "b", "c")] == [None, "A", "A"]
    assert len(predictor._tracks) == 2
    assert len(predictor._tracks["c"].history) <= MAX_HISTORY


def test_a_session_that_nobody_knows_has_no_next_module() -> None:
    assert Predictor(1).next_module("nobody") is None
