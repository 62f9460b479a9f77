"""Time, so that tests can hold it."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells how time goes and waits."""

    def now(self) -> float:
        """Seconds on a clock that only runs forward."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class RealClock:
    """This machine's clock."""

    def now(self) -> float:
        """Seconds on a clock that only runs forward."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
