"""What runs one member inside its actor, without Ray: routers that know each other, reasons that people can read."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from prefillshare.accelerators import VISIBLE_VARIABLE
from prefillshare.cluster.keeper import Keeper
from prefillshare.cluster.plan import Group, Member, Plan
from prefillshare.cluster.prepare import prepare
from prefillshare.cluster.secrets import read_admin_key
from prefillshare.config import Cluster, load_deployment
from prefillshare.config.cluster import RouterSpot
from prefillshare.naming.alias import read_aliases
from prefillshare.naming.changes import Changes, merge_changes
from prefillshare.serving.machine.ports import free_port
from tests.support.engines import MODELS_DIR
from tests.support.waiting import wait_until

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


@dataclass(slots=True)
class Kept:
    """What the head keeps of one router, and what it returns of all."""

    everybody: list["Kept"]
    changes: Changes = field(default_factory=dict)

    def recall_role(self) -> Group | None:
        return None

    def keep_role(self, group: Group) -> None:
        raise AssertionError(f"a router has no role to keep, and not {group}")

    def recall_aliases(self) -> Changes:
        return merge_changes(kept.changes for kept in self.everybody)

    def keep_aliases(self, changes: Changes) -> None:
        self.changes = changes


@pytest.fixture
def keepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Keeper]]:
    # A member hides the GPUs from its own process, which here is that of all tests.
    monkeypatch.setenv(VISIBLE_VARIABLE, "")
    started: list[Keeper] = []
    yield started
    for keeper in started:
        keeper.leave(0)


def start(keepers: list[Keeper], member: Member, memory: Kept | None = None) -> Keeper:
    """Start a member that finds the routers among `keepers`."""
    keeper = Keeper(member, "127.0.0.1", lambda: [other.url for other in keepers if other.url], memory)
    keepers.append(keeper)
    keeper.begin()
    return keeper


def others(keeper: Keeper) -> dict[str, str]:
    """Which routers a router knows, with their states."""
    try:
        state = httpx.get(f"{keeper.url}/router/state", timeout=5).json()
    except httpx.HTTPError:
        return {"": "does not answer"}
    return {router["url"]: router["state"] for router in state.get("routers", {}).get("others", [])}


def aliases(keeper: Keeper) -> dict[str, str] | None:
    """The aliases of a router; None while it does not answer."""
    try:
        return dict(httpx.get(f"{keeper.url}/aliases", timeout=60).json()["aliases"])
    except httpx.HTTPError:
        return None


def change_alias(keeper: Keeper, method: str, name: str) -> None:
    plan = keeper.member.plan
    headers = {"Authorization": f"Bearer {read_admin_key(plan.cluster, plan.config.name)}"}
    body = {"module": "tool"} if method == "PUT" else None
    reply = httpx.request(method, f"{keeper.url}/aliases/{name}", json=body, headers=headers, timeout=WAIT_S)
    assert reply.status_code == 200, reply.text


def start_two(keepers: list[Keeper], plan: Plan, memories: list[Kept]) -> list[Keeper]:
    members = [Member(group=ROUTER, number=number, plan=plan) for number in range(2)]
    started = [start(keepers, member, memory) for member, memory in zip(members, memories, strict=True)]
    wait_until(lambda: all("up" in others(keeper).values() for keeper in started), "they agree")
    return started


def test_routers_know_each_other_and_hear_who_has_left(plan: Plan, keepers: list[Keeper]) -> None:
    first, second = (start(keepers, Member(group=ROUTER, number=number, plan=plan)) for number in range(2))
    wait_until(lambda: set(others(first)) == {second.url}, "the first knows the second")
    wait_until(lambda: set(others(second)) == {first.url}, "the second knows the first")
    wait_until(lambda: others(first).get(second.url) == "up", "they agree")
    second.leave(0)
    assert second.status().state == "left"
    keepers.remove(second)
    wait_until(lambda: others(first) == {}, "the first is alone")
    wait_until(lambda: first.status().is_known, "the first serves")


def test_aliases_outlive_all_routers_that_start_anew_at_once(plan: Plan, keepers: list[Keeper]) -> None:
    """Because one left, and then with their actors: what the head keeps is all that is left."""
    plan = replace(plan, config=replace(plan.config, aliases=read_aliases({"first": "math", "gone": "math"})))
    memories: list[Kept] = []
    memories += [Kept(memories), Kept(memories)]
    first, second = start_two(keepers, plan, memories)
    change_alias(first, "PUT", "newest")
    change_alias(second, "DELETE", "gone")
    changed = {"first": "math", "newest": "tool"}
    wait_until(lambda: all(set(kept.changes) == {"newest", "gone"} for kept in memories), "both are kept")
    keepers.remove(second)
    second.leave(0)
    wait_until(lambda: others(first) == {}, "the first has started anew, alone")
    wait_until(lambda: aliases(first) == changed, "it knows the aliases")
    keepers.remove(first)
    first.leave(0)
    memories[0].changes = {}  # whoever started it anew has another one's line to go by
    for keeper in start_two(keepers, plan, memories):
        assert aliases(keeper) == changed


def test_a_node_with_other_files_says_so_and_tries_again(plan: Plan, keepers: list[Keeper]) -> None:
    differing = replace(plan, fingerprint="sha256:" + "0" * 64)
    keeper = start(keepers, Member(group=ROUTER, number=0, plan=differing))
    wait_until(lambda: keeper.status().state == "failed", "it fails")
    assert "copy the same files to all nodes" in (keeper.status().reason or "")
    piece = keeper.read_log(0, "")
    assert plan.fingerprint[:19] in piece.text
    assert keeper.read_log(piece.end, piece.file).text == ""


def test_a_node_of_another_version_refuses(plan: Plan, keepers: list[Keeper]) -> None:
    keeper = start(keepers, Member(group=ROUTER, number=0, plan=replace(plan, version="0.0.1")))
    wait_until(lambda: keeper.status().state == "failed", "it fails")
    assert "install the same on all" in (keeper.status().reason or "")
