"""The dashboard under a pilot: keys, and what they do."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from prefillshare_tui.app import Dashboard
from prefillshare_tui.errors import FeedError
from prefillshare_tui.history import SPANS_S
from prefillshare_tui.screens.dialogs import HelpScreen, LeaveScreen
from prefillshare_tui.screens.tables import SessionsScreen, TableScreen
from prefillshare_tui.widgets.panel import Panel
from tests.support.dashboard import FakeClock, ScriptedSource, calm, dashboard, press, snapshots

NUM_SECONDS = 6
Steps = Callable[[Pilot[Any], Dashboard], Awaitable[None]]


def drive(app: Dashboard, steps: Steps, size: tuple[int, int] = (80, 24)) -> None:
    async def run() -> None:
        async with app.run_test(size=size) as pilot, asyncio.timeout(120):
            await steps(pilot, app)

    asyncio.run(run())


async def until(pilot: Pilot[Any], is_true: Callable[[], bool]) -> None:
    while not is_true():
        await calm(pilot)


async def settled(pilot: Pilot[Any], app: Dashboard, num_snapshots: int = NUM_SECONDS) -> None:
    await until(pilot, lambda: app.num_snapshots >= num_snapshots)
    await calm(pilot)


def shown(app: Dashboard, panel: str) -> str:
    return str(app.screen.query_one(f"#{panel}", Panel).visual)


def table(app: Dashboard) -> TableScreen:
    assert isinstance(app.screen, TableScreen)
    return app.screen


def test_keys_open_the_screens() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        for key, name in enumerate(("overview", "modules", "workers", "sessions", "events"), 1):
            await press(pilot, str(key))
            assert app.current_mode == name

    drive(dashboard(snapshots(NUM_SECONDS)), steps)


def test_the_screen_of_tenants_is_there_where_tenants_are() -> None:
    async def without(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await press(pilot, "2", "6")
        assert app.current_mode == "modules"
        assert "Tenants" not in [command.title for command in app.get_system_commands(app.screen)]
        assert [notice.message for notice in app._notifications] == [
            "This deployment has no tenants: one key is everybody's."
        ]

    async def within(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await pilot.click("TabBar", offset=(72, 0))
        await until(pilot, lambda: app.current_mode == "tenants")
        await press(pilot, "1", "6", "down", "c")
        assert app.current_mode == "tenants"
        copied = json.loads(app.clipboard)
        assert (copied["name"], set(copied["refused"])) == (
            "northwind",
            {"rate", "tokens", "concurrent", "module", "door"},
        )

    drive(dashboard(snapshots(NUM_SECONDS)), without)
    drive(dashboard(snapshots(NUM_SECONDS, num_tenants=3)), within)


def test_a_click_on_a_tab_opens_its_screen() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await pilot.click("TabBar", offset=(34, 0))
        await until(pilot, lambda: app.current_mode == "workers")

    drive(dashboard(snapshots(NUM_SECONDS)), steps)


def test_pause_holds_what_is_shown_and_loses_nothing() -> None:
    states = snapshots(NUM_SECONDS + 5)
    source = ScriptedSource(states[:NUM_SECONDS])

    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        before = shown(app, "hits")
        await press(pilot, "space")
        source.put(*states[NUM_SECONDS:])
        await settled(pilot, app, NUM_SECONDS + 5)
        assert app.view is not None
        assert app.view.snapshot is states[NUM_SECONDS - 1]
        assert shown(app, "hits") == before
        await press(pilot, "space")
        assert app.view.snapshot is states[-1]
        assert shown(app, "hits") != before
        assert len(app.view.samples) == NUM_SECONDS + 5

    drive(Dashboard(source, clock=FakeClock()), steps)


def test_the_window_goes_round() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        seen = []
        for _ in range(4):
            assert app.view is not None
            seen.append(app.view.span_s)
            await press(pilot, "w")
        assert seen == [*SPANS_S, SPANS_S[0]]

    drive(dashboard(snapshots(NUM_SECONDS)), steps)


def test_filter_while_typing_then_clear() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await press(pilot, "4")
        assert table(app).rows.num_shown == 40
        await press(pilot, "slash", *"session-01")
        assert table(app).rows.num_shown == 10
        await press(pilot, "enter", "down")
        assert table(app).rows.selected is not None
        await press(pilot, "escape")
        assert table(app).rows.num_shown == 40

    drive(dashboard(snapshots(NUM_SECONDS, num_sessions=40)), steps)


def test_sort_by_key_and_by_click() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await press(pilot, "4", "s")
        rows = table(app).rows
        assert (rows.sort_title, rows.is_descending) == ("Session", True)
        assert rows.selected.session.id == "session-039"
        await press(pilot, "S")
        assert rows.selected.session.id == "session-000"
        await pilot.click("#rows", offset=(2, 0))
        await calm(pilot)
        assert (rows.sort_title, rows.is_descending) == ("Session", True)

    drive(dashboard(snapshots(NUM_SECONDS, num_sessions=40)), steps)


def test_the_cursor_stays_with_its_row_when_rows_move() -> None:
    states = snapshots(NUM_SECONDS + 20, num_sessions=40)
    source = ScriptedSource(states[:NUM_SECONDS])

    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await press(pilot, "4", "down", "down", "down")
        key = table(app).rows.selected.session.id
        source.put(*states[NUM_SECONDS:])
        await settled(pilot, app, NUM_SECONDS + 20)
        assert table(app).rows.selected.session.id == key
        assert key in shown(app, "detail")

    drive(Dashboard(source, clock=FakeClock()), steps)


def test_a_click_chooses_a_row() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await press(pilot, "2")
        await pilot.click("#rows", offset=(3, 3))
        await calm(pilot)
        assert table(app).rows.selected.module.name == "code"
        assert "code since the start" in shown(app, "detail")

    drive(dashboard(snapshots(NUM_SECONDS)), steps)


def test_copy_takes_the_exact_values_of_the_row() -> None:
    states = snapshots(NUM_SECONDS)

    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await press(pilot, "2")
        await press(pilot, "c")
        record = json.loads(app.clipboard)
        assert record["name"] == "math"
        assert record["prompt_tokens"] == states[-1].modules[0].prompt_tokens
        await press(pilot, "1")
        await press(pilot, "c")
        assert app.clipboard.startswith("tiny-agents (colocated)")

    drive(dashboard(states), steps)


def test_export_and_picture_go_to_the_folder(tmp_path: Path) -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await press(pilot, "e", "E", "x")

    drive(dashboard(snapshots(NUM_SECONDS), folder=tmp_path), steps)
    suffixes = sorted(path.suffix for path in tmp_path.iterdir())
    assert suffixes == [".csv", ".json", ".svg"]
    picture = next(tmp_path.glob("*.svg")).read_text()
    assert "Prefix" in picture
    assert "url(" not in picture.replace("url(#", "")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        await press(pilot, "e")
        assert [note.severity for note in app._notifications] == ["error"]

    drive(dashboard(snapshots(NUM_SECONDS), folder=tmp_path / "missing"), steps)


def test_light_and_dark() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        names = []
        for _ in range(3):
            names.append(app.theme)
            await press(pilot, "t")
        assert names == ["prefillshare-dark", "prefillshare-light", "prefillshare-dark"]

    drive(dashboard(snapshots(1)), steps)


def test_every_action_can_be_found_by_name() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        names = [command.title for command in app.get_system_commands(app.screen)]
        assert {"Overview", "Events", "Window 5 m", "Pause or go on", "Export as CSV", "Picture", "Quit"} <= set(names)
        await press(pilot, "ctrl+p", *"sessions")
        # What is found comes a moment later; Enter does nothing before.
        while not isinstance(app.screen, SessionsScreen):
            await press(pilot, "enter")

    drive(dashboard(snapshots(2)), steps)


@pytest.mark.parametrize("size", [(20, 5), (60, 15), (300, 90)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_odd_terminals_break_nothing(size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app)
        for key in "12345":
            await press(pilot, key)
        assert app.current_mode == "events"

    drive(dashboard(snapshots(NUM_SECONDS, num_workers=6)), steps, size)


def test_help_opens_and_closes() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await press(pilot, "question_mark")
        assert isinstance(app.screen, HelpScreen)
        await press(pilot, "escape")
        assert not isinstance(app.screen, HelpScreen)

    drive(dashboard(snapshots(1)), steps)


@pytest.mark.parametrize(("keys", "leaving"), [("qs", "stop"), ("qk", "keep")])
def test_leaving_a_launched_deployment_asks(keys: str, leaving: str) -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await settled(pilot, app, 1)
        await press(pilot, keys[0])
        assert isinstance(app.screen, LeaveScreen)
        await press(pilot, "escape")
        assert not isinstance(app.screen, LeaveScreen)
        await press(pilot, keys[0])
        await pilot.press(keys[1])

    app = dashboard(snapshots(1), is_launched=True)
    drive(app, steps)
    assert app.return_value == leaving


def test_ctrl_c_ends_a_launched_deployment_and_only_itself_otherwise() -> None:
    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await pilot.press("ctrl+c")

    for is_launched, leaving in ((True, "stop"), (False, None)):
        app = dashboard(snapshots(1), is_launched=is_launched)
        drive(app, steps)
        assert app.return_value == leaving
        assert isinstance(app.source, ScriptedSource)
        assert app.source.is_closed


def test_waits_grow_with_failures_and_begin_again_after_an_answer() -> None:
    clock = FakeClock()
    script = [*(FeedError("no") for _ in range(5)), *snapshots(1), FeedError("no")]

    async def steps(pilot: Pilot[Any], app: Dashboard) -> None:
        await until(pilot, lambda: len(clock.waits) == len(script))

    drive(dashboard(script, clock), steps)
    assert clock.waits == [1.0, 2.0, 4.0, 5.0, 5.0, 1.0, 1.0]
