"""The simulated clock: time passes when everybody waits, and only then."""

import asyncio
import time

import pytest

from prefillshare.errors import SimulationError
from prefillshare.simulation.clock import now_s, run_simulated


def test_hours_pass_at_once_and_in_order() -> None:
    seen = []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((seconds, now_s()))

    async def work() -> None:
        await asyncio.gather(wait(7200), wait(3600), wait(0.5))

    begin = time.monotonic()
    run_simulated(work())
    assert [seconds for seconds, _ in seen] == [0.5, 3600, 7200]
    assert all(now == pytest.approx(seconds) for seconds, now in seen)
    assert time.monotonic() - begin < 3600


def test_timeouts_are_simulated_too() -> None:
    async def work() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return now_s()

    assert run_simulated(work()) == pytest.approx(60)


def test_standing_still_is_said() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(SimulationError, match="stands still"):
        run_simulated(work())
