"""What runs one member inside its actor, without Ray: routers that know each other, reasons that people can read."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from prefillshare.accelerators import VISIBLE_VARIABLE
from prefillshare.cluster.keeper import Keeper
from prefillshare.cluster.plan import Group, Member, Plan
from prefillshare.cluster.prepare import prepare
from prefillshare.config import Cluster, load_deployment
from prefillshare.config.cluster import RouterSpot
from prefillshare.serving.machine.ports import free_port
from tests.support.engines import MODELS_DIR

WAIT_S = 120.0
ROUTER = Group(role="router")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("s" * 32)
    cluster = Cluster(network="127.0.0.0/8", token_file=token, router=RouterSpot(replicas=2))
    config = replace(load_deployment(MODELS_DIR / "tiny-agents-pd.toml"), cluster=cluster)
    return prepare(config, free_port())[0]


@pytest.fixture
def keepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Keeper]]:
    # A member hides the GPUs from its own process, which here is that of all tests.
    monkeypatch.setenv(VISIBLE_VARIABLE, "")
    started: list[Keeper] = []
    yield started
    for keeper in started:
        keeper.leave(0)


def start(keepers: list[Keeper], member: Member) -> Keeper:
    """Start a member that finds the routers among `keepers`."""
    keeper = Keeper(member, "127.0.0.1", lambda: [other.url for other in keepers if other.url])
    keepers.append(keeper)
    keeper.begin()
    return keeper


def wait(until: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def others(keeper: Keeper) -> dict[str, str]:
    """Which routers a router knows, with their states."""
    try:
        state = httpx.get(f"{keeper.url}/router/state", timeout=5).json()
    except httpx.HTTPError:
        return {"": "does not answer"}
    return {router["url"]: router["state"] for router in state.get("routers", {}).get("others", [])}


def test_routers_know_each_other_and_hear_who_has_left(plan: Plan, keepers: list[Keeper]) -> None:
    first, second = (start(keepers, Member(group=ROUTER, number=number, plan=plan)) for number in range(2))
    wait(lambda: set(others(first)) == {second.url}, "the first knows the second")
    wait(lambda: set(others(second)) == {first.url}, "the second knows the first")
    wait(lambda: others(first).get(second.url) == "up", "they agree")
    second.leave(0)
    assert second.status().state == "left"
    keepers.remove(second)
    wait(lambda: others(first) == {}, "the first is alone")
    wait(lambda: first.status().is_known, "the first serves")


def test_a_node_with_other_files_says_so_and_tries_again(plan: Plan, keepers: list[Keeper]) -> None:
    differing = replace(plan, fingerprint="sha256:" + "0" * 64)
    keeper = start(keepers, Member(group=ROUTER, number=0, plan=differing))
    wait(lambda: keeper.status().state == "failed", "it fails")
    assert "copy the same files to all nodes" in (keeper.status().reason or "")
    piece = keeper.read_log(0, "")
    assert plan.fingerprint[:19] in piece.text
    assert keeper.read_log(piece.end, piece.file).text == ""


def test_a_node_of_another_version_refuses(plan: Plan, keepers: list[Keeper]) -> None:
    keeper = start(keepers, Member(group=ROUTER, number=0, plan=replace(plan, version="0.0.1")))
    wait(lambda: keeper.status().state == "failed", "it fails")
    assert "install the same on all" in (keeper.status().reason or "")
