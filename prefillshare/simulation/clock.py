"""An event loop whose time is simulated: it never sleeps, it sets its clock to the next timer.

The router's queues and the drivers are asyncio code. On this loop `asyncio.sleep(3600)` takes no time, and whatever
runs between two timers takes none of the simulated time.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from prefillshare.errors import SimulationError

T = TypeVar("T")


class _NoFiles(selectors.BaseSelector):
    """Knows no files but the loop's own; waiting for them moves the clock on."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[descriptor] = selectors.SelectorKey(fileobj, descriptor, events, data)
        return self._keys[descriptor]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise SimulationError("the simulated deployment stands still: everybody waits for somebody else")
        self.now_s += max(0.0, timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, which starts at 0."""

    def __init__(self) -> None:
        self._timers = _NoFiles()
        super().__init__(self._timers)

    def time(self) -> float:
        """Return the simulated time in seconds."""
        return self._timers.now_s


def run_simulated(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, run on a simulated loop.

    Raises: SimulationError when it can never end.
    """
    results: list[T] = []

    async def keep_result() -> None:
        # Not returned: the runner would write a task with its result out as text, all of it, and drop that.
        results.append(await work)

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(keep_result())
    return results[0]


def now_s() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()
