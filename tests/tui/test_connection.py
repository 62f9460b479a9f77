"""The dashboard and a real server that refuses, hangs, breaks off, dies and comes back."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from prefillshare_tui.app import Dashboard
from prefillshare_tui.client import StateClient
from prefillshare_tui.errors import FeedError, ForeignServerError, RefusedError, UnreachableError
from prefillshare_tui.parts import as_text
from prefillshare_tui.widgets.bars import Banner
from tests.support.misbehaving import KEY, Server, served_deployment

TIMEOUT_S = 60.0
OF_ONE_THAT_HANGS_S = 0.3


@pytest.fixture
def server() -> Iterator[Server]:
    with served_deployment() as server:
        yield server


def fetch(url: str, key: str | None = KEY, timeout_s: float = TIMEOUT_S) -> object:
    async def once() -> object:
        client = StateClient(url, key, timeout_s=timeout_s)
        try:
            return await client.fetch()
        finally:
            await client.close()

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("manner", "kind", "says"),
    [
        ("404", ForeignServerError, "has no /deployment/state: it is no PrefillShare deployment"),
        ("403", RefusedError, "shows its numbers to its operator, and the key is another one's"),
        ("500", UnreachableError, "answered 500: look at its log"),
        ("hang", UnreachableError, "did not answer within 0.3 s"),
        ("break", UnreachableError, "broke off its answer"),
        ("garbage", ForeignServerError, "not as a PrefillShare deployment: correct --url"),
    ],
)
def test_each_fault_has_its_sentence(server: Server, manner: str, kind: type[FeedError], says: str) -> None:
    server.deployment.manner = manner
    with pytest.raises(kind, match=says):
        fetch(server.deployment.url, timeout_s=OF_ONE_THAT_HANGS_S if manner == "hang" else TIMEOUT_S)


def test_a_wrong_key_is_said(server: Server) -> None:
    with pytest.raises(RefusedError, match="wants an API key: give it with --api-key or PREFILLSHARE_API_KEY"):
        fetch(server.deployment.url, "wrong")


def test_nobody_there_is_said(server: Server) -> None:
    server.stop()
    with pytest.raises(
        UnreachableError, match=r"no server answers at .*: start one with `prefillshare launch --port \d+`"
    ):
        fetch(server.deployment.url)


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "::", "http://a:70000", "http://[a", "http://a b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ForeignServerError, match="is not an address: use one such as"):
        StateClient(url)


def test_addresses_are_taken_as_people_write_them() -> None:
    assert StateClient("127.0.0.1:30000").url == "http://127.0.0.1:30000"
    assert StateClient("http://host:1/v1/").url == "http://host:1"


def badge(app: Dashboard) -> str:
    return as_text(app.link.badge(app.clock.now(), is_paused=app.is_paused))


def test_stale_disconnected_and_back_by_itself(server: Server) -> None:
    async def until(pilot: Pilot[Any], is_true: Callable[[], bool]) -> None:
        while not is_true():
            await pilot.pause(0.02)

    def drawn(app: Dashboard, selector: str = "StatusBar") -> str:
        return str(app.screen.query_one(selector, Static).visual)

    async def run() -> None:
        client = StateClient(server.deployment.url, KEY, timeout_s=60)
        app = Dashboard(client, interval_s=0.1)
        async with app.run_test(size=(120, 40)) as pilot, asyncio.timeout(120):
            await until(pilot, lambda: "LIVE" in drawn(app))
            server.deployment.manner = "hang"
            await until(pilot, lambda: "STALE" in drawn(app))
            assert "No new state for" in app.screen.query_one(Banner).text
            assert app.screen.has_class("-old")
            server.deployment.manner = "well"
            server.stop()
            await until(pilot, lambda: "DISCONNECTED" in drawn(app))
            assert "What you see is" in app.screen.query_one(Banner).text
            seen = app.num_snapshots
            server.start()
            await until(pilot, lambda: "LIVE" in drawn(app))
            assert app.num_snapshots > seen
            assert not app.screen.query_one(Banner).display
            assert not app.screen.has_class("-old")

    asyncio.run(run())


def test_a_server_that_comes_later_is_found(server: Server) -> None:
    server.stop()

    async def run() -> None:
        app = Dashboard(StateClient(server.deployment.url, KEY, timeout_s=60), interval_s=0.1)
        async with app.run_test(size=(80, 24)) as pilot, asyncio.timeout(120):
            while "No server answers" not in str(app.screen.query_one("#waiting", Static).visual):
                await pilot.pause(0.02)
            server.start()
            await pilot.press("r")
            # For how long it is live depends on the machine: after three seconds without an answer it is stale.
            while "LIVE" not in badge(app) or app.screen.query_one("#waiting").display:
                await pilot.pause(0.02)

    asyncio.run(run())
