"""Prefill workers are greeted beside the scheduler, which waits for none of them."""

import threading
import time

import pytest

from sglang_patches.disaggregation.greetings import Greetings

WAIT_S = 120.0
PAUSE_S = 1.0
MAX_TRIES = 3


class Workers:
    """Prefill workers by address, and what they are asked."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked: list[str] = []
        self.seconds = 100.0
        self.greetings = Greetings(self.greet, pause_s=PAUSE_S, max_tries=MAX_TRIES, clock=lambda: self.seconds)

    def greet(self, address: str) -> str | None:
        self.asked.append(address)
        if address == "stalls":
            self.may_answer.wait()
        if address == "away":
            raise ConnectionRefusedError("nobody listens")
        return "it is another's" if address == "stranger" else None

    def look_until_over(self, address: str) -> str | None:
        """What is said at the end of one try."""
        assert self.greetings.look(address) is None
        reply = self.greetings._by_address[address].reply
        assert reply is not None
        deadline = time.monotonic() + WAIT_S
        while not reply.done():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return self.greetings.look(address)


@pytest.fixture
def workers() -> Workers:
    return Workers()


def test_one_that_stalls_is_asked_once_and_holds_up_nobody(workers):
    for _ in range(3):
        assert workers.greetings.look("stalls") is None
    assert workers.look_until_over("stranger") == "it is another's"
    assert workers.look_until_over("good") is None
    # Its calls have gone, and others come.
    workers.greetings.forget_others(set())
    assert workers.greetings.look("stalls") is None
    assert "stalls" in workers.greetings._by_address
    workers.may_answer.set()
    deadline = time.monotonic() + WAIT_S
    while "stalls" in workers.greetings._by_address:
        assert time.monotonic() < deadline
        assert workers.greetings.look("stalls") is None
    assert sorted(workers.asked) == ["good", "stalls", "stranger"]


def test_one_that_is_away_is_asked_again_and_then_given_up(workers):
    for number in range(1, MAX_TRIES):
        assert workers.look_until_over("away") is None
        assert workers.greetings.look("away") is None
        assert len(workers.asked) == number
        workers.seconds += PAUSE_S
    said = workers.look_until_over("away")
    assert said == "the prefill worker at away does not answer: see whether it runs"
    assert len(workers.asked) == MAX_TRIES


def test_tries_are_counted_anew_for_calls_that_come_later(workers):
    for _ in range(MAX_TRIES + 1):
        assert workers.look_until_over("away") is None
        workers.greetings.forget_others({"good"})
    assert len(workers.asked) == MAX_TRIES + 1


def test_one_that_was_refused_is_asked_by_the_next_call(workers):
    assert [workers.look_until_over("stranger") for _ in range(2)] == ["it is another's"] * 2
    assert workers.asked == ["stranger"] * 2


def test_without_a_thread_it_is_tried_again(workers, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            assert workers.greetings.look("good") is None
    assert workers.asked == []
    workers.seconds += PAUSE_S
    assert workers.look_until_over("good") is None
    assert workers.asked == ["good"]
