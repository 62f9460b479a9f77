"""Open loop: sessions begin when they arrive, however many are running."""

import asyncio
from collections.abc import Sequence

from prefillshare.bench.drivers.session import SessionDriver


async def open_loop(driver: SessionDriver, arrivals_s: Sequence[float]) -> None:
    """Run session i from `arrivals_s[i]` on, in seconds after the start of the run."""
    async with asyncio.TaskGroup() as tasks:
        for number, arrival_s in sorted(enumerate(arrivals_s), key=lambda pair: pair[1]):
            await asyncio.sleep(max(0.0, arrival_s - driver.now_s()))
            tasks.create_task(driver.run(number, arrival_s))
