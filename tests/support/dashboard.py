"""A dashboard whose deployment and time are held by the test."""

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

import orjson
from textual.pilot import Pilot

from benchmarks.tui.deployment import PaperDeployment
from prefillshare_tui.app import Dashboard
from prefillshare_tui.errors import FeedError
from prefillshare_tui.parse import parse
from prefillshare_tui.snapshot import Snapshot

URL = "http://127.0.0.1:30000"
_ROUNDS = 8
"""Of messages through the app and every widget: more than any action here takes."""


class FakeClock:
    """Stands still until it is moved; waits end when the test says so."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.waits: list[float] = []

    def now(self) -> float:
        """The time that the test set."""
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        """Note the wait and end it at once."""
        self.waits.append(seconds)
        await asyncio.sleep(0)


class ScriptedSource:
    """Answers with what is in the script, one entry a fetch, and then not at all."""

    url = URL

    def __init__(self, script: Sequence[Snapshot | FeedError]) -> None:
        self._answers: asyncio.Queue[Snapshot | FeedError] = asyncio.Queue()
        self.is_closed = False
        self.put(*script)

    def put(self, *answers: Snapshot | FeedError) -> None:
        """Lengthen the script."""
        for answer in answers:
            self._answers.put_nowait(answer)

    async def fetch(self) -> Snapshot:
        """The next answer."""
        answer = await self._answers.get()
        if isinstance(answer, FeedError):
            raise answer
        return answer

    async def close(self) -> None:
        """Note it."""
        self.is_closed = True


async def calm(pilot: Pilot[Any]) -> None:
    """Let the app do what is due.

    By itself, a pilot's pause ends by the clock, whether or not a busy machine let the app run meanwhile.
    """
    await pilot.pause()
    for _ in range(_ROUNDS):
        await pilot.pause(0)


async def press(pilot: Pilot[Any], *keys: str) -> None:
    """Press keys, each when the one before has done its work, such as moving the focus."""
    for key in keys:
        await pilot.press(key)
        await calm(pilot)


@functools.cache
def snapshots(number: int, *, num_workers: int = 1, num_sessions: int = 12, num_tenants: int = 0) -> Sequence[Snapshot]:
    """The first seconds of the deployment on paper."""
    deployment = PaperDeployment(num_workers=num_workers, num_sessions=num_sessions, num_tenants=num_tenants)
    found = []
    for _ in range(number):
        deployment.step()
        found.append(snapshot(deployment.state()))
    return tuple(found)


def snapshot(state: dict[str, Any]) -> Snapshot:
    """The snapshot of a state, through JSON as on the wire."""
    return parse(orjson.dumps(state), URL)


def dashboard(
    script: Sequence[Snapshot | FeedError],
    clock: FakeClock | None = None,
    *,
    seen: Sequence[Snapshot] = (),
    **fields: Any,
) -> Dashboard:
    """A dashboard that plays the script; it recorded the snapshots in `seen` before."""
    app = Dashboard(ScriptedSource(script), clock=clock or FakeClock(), **fields)
    for snapshot in seen:
        app.history.add(snapshot)
    return app
