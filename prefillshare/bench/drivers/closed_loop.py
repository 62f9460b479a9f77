"""Closed loop: a number of sessions at a time; when one ends, the next begins."""

import asyncio

from prefillshare.bench.drivers.session import SessionDriver


async def closed_loop(driver: SessionDriver, concurrency: int) -> None:
    """Run all sessions, at most `concurrency` at a time."""
    waiting = iter(range(len(driver.workload.sessions)))

    async def run_waiting() -> None:
        for number in waiting:
            await driver.run(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(run_waiting())
