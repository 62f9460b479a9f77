"""Whose a prompt on its way is: the prefill worker's that computes it, or the decode worker's that has no room."""

import pytest

from prefillshare.config.router import Router
from prefillshare.routing.workers.open_prompts import OpenPrompt, PrefillTimes, begin_prompt, end_prompt
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker
from tests.support.clock import Clock

URL = "http://127.0.0.1:1"
SPEED = 1000.0


class Pair:
    """A prefill and a decode worker, with a clock that the test turns."""

    def __init__(self) -> None:
        self.clock = Clock(100.0)
        settings = Router(initial_prefill_tokens_per_s=SPEED)
        prefill = WorkerSpec(id="p", role="prefill", url=URL, bootstrap_host="127.0.0.1", bootstrap_port=1)
        self.prefill = Worker(prefill, settings, clock=self.clock)
        self.decode = Worker(WorkerSpec(id="d", role="decode", module="m", url=URL), settings, clock=self.clock)

    def send(self, tokens: float) -> OpenPrompt:
        """Send a prompt."""
        return begin_prompt(self.prefill, self.decode, tokens)

    def working(self) -> tuple[int, int]:
        """Calls that the prefill and the decode worker work on."""
        return self.prefill.num_working(self.clock.now), self.decode.num_working(self.clock.now)


def test_prompts_that_wait_for_room_are_the_decode_workers() -> None:
    pair = Pair()
    prompts = [pair.send(500) for _ in range(4)]
    assert pair.working() == (4, 0)
    pair.clock.now += 2.1
    assert pair.working()[0] == 0, "it has had the time for all of them"
    pair.clock.now += 18
    assert pair.working() == (0, 4)
    assert pair.prefill.backlog_s() == 0
    assert pair.decode.room_wait_s(pair.clock.now) > 15
    assert pair.prefill.speed.wait_s == pytest.approx(2.0), "the choice of a worker counts what was given"
    for prompt in prompts:
        end_prompt(prompt, 500, PrefillTimes(computing_s=0.5, handoff_s=18.0))
    assert pair.working() == (0, 0)
    assert pair.decode.room_wait_s(pair.clock.now) == 0


def test_prompts_behind_a_long_backlog_are_the_prefill_workers() -> None:
    pair = Pair()
    for _ in range(40):
        pair.send(500)
    pair.clock.now += 12
    assert pair.prefill.backlog_s() == pytest.approx(8.0)
    waiting = pair.decode.num_working(pair.clock.now)
    assert waiting <= 12 * SPEED / 500, "no more than what could have been computed"
    assert pair.prefill.num_working(pair.clock.now) == 40 - waiting


@pytest.mark.parametrize("times", [PrefillTimes(computing_s=1.0), PrefillTimes(computing_s=1.0, handoff_s=30.0)])
def test_waits_for_room_before_and_after_the_computation_are_no_speed(times: PrefillTimes) -> None:
    pair = Pair()
    for _ in range(20):
        prompt = pair.send(500)
        pair.clock.now += 40
        end_prompt(prompt, 500, times)
    assert pair.prefill.speed.tokens_per_s == pytest.approx(500, rel=0.01)


def test_other_routers_tell_what_is_worked_on() -> None:
    pair = Pair()
    pair.prefill.note_elsewhere(5, 3000.0, 0)
    assert (pair.prefill.load, pair.prefill.num_working(pair.clock.now), pair.prefill.backlog_s()) == (5, 0, 0)
    pair.prefill.note_elsewhere(5, 3000.0, 2)
    assert (pair.prefill.num_working(pair.clock.now), pair.prefill.backlog_s()) == (2, 3)
