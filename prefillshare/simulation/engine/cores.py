"""The cores that workers share on a machine without GPUs: a step takes one of them, first come first served."""

import asyncio


class Cores:
    """Runs steps; without a number, every worker has a processor of its own."""

    def __init__(self, num_cores: int) -> None:
        self._free = asyncio.Semaphore(num_cores) if num_cores else None
        self._beside: set[asyncio.Task[None]] = set()

    @property
    def are_shared(self) -> bool:
        """Whether a step may have to wait for others."""
        return self._free is not None

    def spend(self, seconds: float) -> None:
        """Take a core for so long beside everything else; nobody waits for its end."""
        if self._free is not None and seconds > 0:
            task = asyncio.create_task(self.run(seconds))
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)

    async def run(self, seconds: float) -> None:
        """Take a core for so long."""
        if self._free is None:
            await asyncio.sleep(seconds)
            return
        async with self._free:
            await asyncio.sleep(seconds)
