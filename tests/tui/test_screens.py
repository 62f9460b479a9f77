"""Pictures of every screen at three sizes, and of every state of the connection.

After a change on purpose: `pytest tests/tui --snapshot-update`, and look at what changed.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot

from prefillshare_tui.app import Dashboard
from prefillshare_tui.errors import FeedError, RefusedError
from prefillshare_tui.snapshot import Snapshot, Store
from tests.support.dashboard import FakeClock, calm, dashboard, press, snapshots

SIZES = ((80, 24), (120, 40), (200, 60))
SCREENS = ("overview", "modules", "workers", "sessions", "events")
NUM_SECONDS = 50

Compare = Callable[..., bool]


@pytest.fixture(scope="module")
def states() -> Sequence[Snapshot]:
    return snapshots(NUM_SECONDS, num_workers=6, num_sessions=40)


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours and times do not depend on who runs the tests."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")


async def seen(pilot: Pilot[Any]) -> Dashboard:
    """Wait until the dashboard showed the script's snapshot."""
    app = pilot.app
    assert isinstance(app, Dashboard)
    async with asyncio.timeout(120):
        while not app.num_snapshots:
            await calm(pilot)
    await calm(pilot)
    return app


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(("key", "screen"), enumerate(SCREENS, 1), ids=lambda value: value)
def test_screen(
    snap_compare: Compare, states: Sequence[Snapshot], key: int, screen: str, size: tuple[int, int]
) -> None:
    async def look(pilot: Pilot[Any]) -> None:
        await seen(pilot)
        await press(pilot, str(key))

    assert snap_compare(dashboard(states[-1:], seen=states[:-1]), terminal_size=size, run_before=look)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_tenants(snap_compare: Compare, size: tuple[int, int]) -> None:
    states = snapshots(NUM_SECONDS, num_tenants=5)

    async def look(pilot: Pilot[Any]) -> None:
        await seen(pilot)
        await press(pilot, "6")

    assert snap_compare(dashboard(states[-1:], seen=states[:-1]), terminal_size=size, run_before=look)


def test_a_tenants_file_that_cannot_be_used(snap_compare: Compare) -> None:
    """On every screen, whatever it is about."""
    states = snapshots(NUM_SECONDS, num_tenants=2)
    assert states[-1].tenants is not None
    problem = "the tenants' file tenants.toml is not valid TOML: Expected '=' (at line 3); the tenants of before go on"
    last = replace(states[-1], tenants=replace(states[-1].tenants, problem=problem))
    _pictured(snap_compare, [*states[:-1], last], "2")


def _pictured(snap_compare: Compare, states: Sequence[Snapshot], *keys: str, after_s: float = 0.0) -> None:
    clock = FakeClock()
    app = dashboard(states[-1:], clock, seen=states[:-1])

    async def look(pilot: Pilot[Any]) -> None:
        await seen(pilot)
        if after_s:
            clock.time_s += after_s
            app.tick()
        await press(pilot, *keys)
        await calm(pilot)

    assert snap_compare(app, terminal_size=(80, 24), run_before=look)


def test_a_store_that_is_off(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    """In a small terminal as well: which worker, why, and what to do."""
    reason = "/dev/shm/prefillshare-store-0/memory-a was removed or replaced while it was in use: it is opened again"

    def without(state: Snapshot) -> Snapshot:
        first, *others = state.workers
        return replace(state, workers=(replace(first, store=Store(why_off=reason)), *others))

    _pictured(snap_compare, [without(state) for state in states], "3")


def test_light(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    _pictured(snap_compare, states, "t")


def test_without_colour(snap_compare: Compare, states: Sequence[Snapshot], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    _pictured(snap_compare, states)


def test_paused(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    _pictured(snap_compare, states, "space")


def test_a_module_that_answers_badly(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    warned = replace(states[-1].modules[0], warning="training unknown: answers badly over shared KV")
    last = replace(states[-1], modules=(warned, *states[-1].modules[1:]))
    _pictured(snap_compare, [*states[:-1], last], "2")


def test_stale(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    _pictured(snap_compare, states, after_s=12.0)


def test_disconnected(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    error = RefusedError("http://127.0.0.1:30000 wants an API key: give it with --api-key or PREFILLSHARE_API_KEY")
    app = dashboard([states[-1], error], seen=states[:-1])

    async def look(pilot: Pilot[Any]) -> None:
        await seen(pilot)
        async with asyncio.timeout(120):
            while not app.link.error:
                await calm(pilot)
        await calm(pilot)

    assert snap_compare(app, terminal_size=(80, 24), run_before=look)


def test_never_connected(snap_compare: Compare) -> None:
    app = dashboard([FeedError("no server answers at http://127.0.0.1:30000: start one with `prefillshare launch`")])

    async def look(pilot: Pilot[Any]) -> None:
        async with asyncio.timeout(120):
            while not app.link.error:
                await calm(pilot)
        await calm(pilot)

    assert snap_compare(app, terminal_size=(80, 24), run_before=look)


def test_help(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    _pictured(snap_compare, states, "question_mark")


def test_filtered(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    _pictured(snap_compare, states, "4", "slash", *"code 03")


def test_question_before_leaving(snap_compare: Compare, states: Sequence[Snapshot]) -> None:
    app = dashboard(states[-1:], seen=states[:-1], is_launched=True)

    async def look(pilot: Pilot[Any]) -> None:
        await seen(pilot)
        await press(pilot, "q")

    assert snap_compare(app, terminal_size=(80, 24), run_before=look)
