"""Closed loop: a number of sessions at a time; when one ends, the next begins."""

import asyncio

from prefillshare.bench.drivers.base import Player


async def closed_loop(player: Player, concurrency: int) -> None:
    """Play all sessions, at most `concurrency` at a time."""
    waiting = iter(range(len(player.workload.sessions)))

    async def play_on() -> None:
        for number in waiting:
            await player.play(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(play_on())
