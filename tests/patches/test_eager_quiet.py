"""When the scheduler hears that no call runs: once, a moment after the last one ended, and never while one does."""

import asyncio

from sglang_patches.eager import quiet
from sglang_patches.eager.quiet import Quiet


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time goes on when it is told to."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        self.call_soon(self.stop)
        self.run_forever()
        # What came due then may have set something that is due now.
        self.call_soon(self.stop)
        self.run_forever()


def in_loop(loop: Clock, act) -> None:
    loop.call_soon(act)
    loop.go_on(0.0)


def test_it_is_told_once_a_moment_after_the_last_call() -> None:
    loop, calls, told = Clock(), {"a", "b"}, []
    quiet_calls = Quiet(has_calls=lambda: bool(calls), tell=lambda: told.append(loop.now))

    def end(name: str) -> None:
        calls.discard(name)
        quiet_calls.end_call()

    in_loop(loop, lambda: end("a"))
    loop.go_on(1.0)
    assert told == [], "one still runs"
    in_loop(loop, lambda: end("b"))
    loop.go_on(quiet.SETTLE_S / 2)
    assert told == []
    calls.add("c")
    in_loop(loop, lambda: end("c"))
    loop.go_on(quiet.SETTLE_S * 0.75)
    assert told == [], "another one ended in the meantime"
    loop.go_on(quiet.SETTLE_S / 2)
    assert told == [loop.now]
    loop.go_on(1.0)
    assert len(told) == 1
    loop.close()


def test_a_call_that_runs_when_the_moment_is_over_begins_it_anew() -> None:
    loop, calls, told = Clock(), set(), []
    quiet_calls = Quiet(has_calls=lambda: bool(calls), tell=lambda: told.append(loop.now))
    in_loop(loop, quiet_calls.end_call)
    calls.add("late")
    loop.go_on(1.0)
    assert told == []
    calls.clear()
    in_loop(loop, quiet_calls.end_call)
    loop.go_on(quiet.SETTLE_S)
    assert told == [loop.now]
    loop.close()
