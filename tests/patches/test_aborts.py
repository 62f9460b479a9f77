"""When the rows of an aborted hand-off are free: by the order of what both workers do."""

from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from sglang_patches.disaggregation.aborts import LONGEST_S, Aborts, Address, Transfers, WatchedQueue

HERE: Address = ("127.0.0.1", 4001)


def watched() -> tuple[list[int], Transfers, "SimpleQueue[Any]", WatchedQueue]:
    """The rooms that were answered, and the queue of one transfer thread from both ends; rooms 7 to 9 are known."""
    answered: list[int] = []
    transfers = Transfers(lambda room, address: answered.append(room))
    chunks: SimpleQueue[Any] = SimpleQueue()
    return answered, transfers, chunks, WatchedQueue(chunks, transfers, range(7, 10))


def test_a_room_that_is_not_written_is_answered_at_once() -> None:
    answered, transfers, _, _ = watched()
    transfers.answer_at_end(7, HERE)
    assert answered == [7]


def test_a_room_that_is_written_is_answered_when_the_thread_asks_for_the_next_chunk() -> None:
    answered, transfers, chunks, queue = watched()
    for room in (7, 8, 9):
        chunks.put(SimpleNamespace(room=room))
    assert queue.get().room == 7
    transfers.answer_at_end(8, HERE)
    transfers.answer_at_end(7, HERE)
    assert answered == [8]
    assert queue.get().room == 8
    assert answered == [8, 7]
    assert queue.get().room == 9
    assert answered == [8, 7]


def test_a_room_that_was_forgotten_is_not_written() -> None:
    answered, transfers, chunks, queue = watched()
    for room in (6, 7):
        chunks.put(SimpleNamespace(room=room))
    assert queue.get().room == 7
    transfers.answer_at_end(6, HERE)
    assert answered == [6]


def test_two_threads_that_write_one_room_must_both_be_done() -> None:
    answered, transfers, _, _ = watched()
    transfers.begin(7)
    transfers.begin(7)
    transfers.answer_at_end(7, HERE)
    transfers.end(7)
    assert answered == []
    transfers.end(7)
    assert answered == [7]


def test_every_rank_of_the_prefill_worker_must_answer() -> None:
    aborts = Aborts()
    assert not aborts.is_open(7)
    aborts.ask(7, 2)
    aborts.answered(7)
    assert aborts.is_open(7)
    aborts.answered(7)
    assert not aborts.is_open(7)


def test_a_prefill_worker_that_never_answers_is_not_waited_for_for_ever() -> None:
    now = 100.0
    aborts = Aborts(clock=lambda: now)
    aborts.ask(7, 1)
    now += LONGEST_S * 0.99
    assert aborts.is_open(7)
    now += LONGEST_S * 0.02
    assert not aborts.is_open(7)


def test_an_answer_that_comes_too_late_leaves_nothing_behind() -> None:
    aborts = Aborts()
    aborts.answered(7)
    aborts.ask(7, 1)
    assert aborts.is_open(7)
