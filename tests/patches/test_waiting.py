"""How long a scheduler pauses while it waits for others."""

import itertools
from types import SimpleNamespace

import pytest

from sglang_patches.prefill import waiting


class Clock:
    """Time that passes by pauses, and by `round_s` between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, round_s: float) -> None:
        self.now, self.round_s, self.pauses = 0.0, round_s, []
        monkeypatch.setattr(waiting, "time", SimpleNamespace(sleep=self.sleep, monotonic=lambda: self.now))

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Scheduler:
    """What is looked at, and the wait of this one."""

    def __init__(self) -> None:
        self.wait = waiting.Wait()

    is_idle = False

    def is_fully_idle(self) -> bool:
        return self.is_idle


def rounds(clock: Clock, scheduler: Scheduler, num: int) -> list[float]:
    """The pauses of so many rounds without a batch."""
    begin = len(clock.pauses)
    for _ in range(num):
        scheduler.wait.end_round(scheduler)
        clock.now += clock.round_s
    return clock.pauses[begin:]


def test_a_wait_gets_longer_by_a_twentieth_and_a_pause_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, round_s=0.0005)
    pauses = rounds(clock, Scheduler(), 1000)
    assert pauses[0] == 0
    assert all(one <= two for one, two in itertools.pairwise(pauses))
    assert pauses[-1] == waiting.LONGEST_S
    # Waiting takes a tenth of a core by then.
    assert clock.round_s / (clock.round_s + pauses[-1]) < 0.1
    waited = 0.0
    for pause in pauses:
        assert pause <= waited * 0.05 + 1e-9
        waited += pause + clock.round_s


def test_another_wait_begins_after_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, scheduler = Clock(monkeypatch, round_s=0.0005), Scheduler()
    assert rounds(clock, scheduler, 1000)[-1] == waiting.LONGEST_S
    clock.now += 0.05
    assert rounds(clock, scheduler, 2)[0] == 0


def test_an_idle_scheduler_is_left_to_its_own_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, scheduler = Clock(monkeypatch, round_s=0.0005), Scheduler()
    scheduler.is_idle = True
    assert rounds(clock, scheduler, 10) == []
