"""What a deployment on a cluster consists of, and which members a change replaces."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.cluster import roster as roster_module
from prefillshare.cluster.node import find_address
from prefillshare.cluster.plan import (
    Group,
    Member,
    Plan,
    find_group,
    needed_part,
    next_members,
    revision_of,
    wanted_sizes,
)
from prefillshare.cluster.roster import Roster
from prefillshare.cluster.secrets import read_admin_key, read_api_key
from prefillshare.cluster.status import MemberState, MemberStatus
from prefillshare.cluster.waiting import group_by_text
from prefillshare.config import Cluster, Roles, load_deployment
from prefillshare.config.cluster import RouterSpot, Spot
from prefillshare.errors import ConfigError, LaunchError, ServerError
from tests.support.engines import MODELS_DIR

CONFIG = load_deployment(MODELS_DIR / "tiny-agents-pd.toml")
DIGESTS = {"math": "m", "tool": "t", "code": "c"}
PLAN = Plan(config=CONFIG, fingerprint="f", digests=DIGESTS, version="1", port=30000)
MATH, ROUTER, PREFILL = Group(role="decode", module="math"), Group(role="router"), Group(role="prefill")


def revisions(plan: Plan) -> dict[str, str]:
    return {group.label: revision_of(plan, group) for group in wanted_sizes(plan)}


def changed(plan: Plan) -> set[str]:
    before, after = revisions(PLAN), revisions(plan)
    return {label for label in before if before[label] != after[label]}


def test_numbers_are_the_lowest_free_ones() -> None:
    assert [member.name for member in next_members(PLAN, MATH, [0, 2], 3)] == [
        "decode-math-1",
        "decode-math-3",
        "decode-math-4",
    ]


def test_new_weights_replace_the_workers_of_their_module_only() -> None:
    assert changed(replace(PLAN, digests={**DIGESTS, "math": "other"})) == {"math"}


def test_new_weights_replace_every_worker_that_may_come_to_serve_them() -> None:
    moving = replace(PLAN, config=replace(CONFIG, roles=Roles(follow_load=True)))
    before, after = revisions(moving), revisions(replace(moving, digests={**DIGESTS, "math": "other"}))
    assert {label for label in before if before[label] != after[label]} == {"prefill", *DIGESTS}


def test_settings_that_only_routers_read_are_told_and_replace_no_worker() -> None:
    for config in (
        replace(CONFIG, router=replace(CONFIG.router, max_running_per_worker=3)),
        replace(CONFIG, roles=Roles(interval_s=2.0)),
        replace(CONFIG, otlp_endpoint="http://localhost:4317"),
        replace(CONFIG, responses=replace(CONFIG.responses, max_count=7)),
    ):
        assert changed(replace(PLAN, config=config)) == {"router"}


def test_what_prefill_workers_compute_ahead_replaces_workers() -> None:
    prefill = replace(CONFIG.prefill, eager_answers=False)
    assert changed(replace(PLAN, config=replace(CONFIG, prefill=prefill))) == {"prefill", *DIGESTS}


def test_numbers_and_places_replace_nobody() -> None:
    cluster = Cluster(router=RouterSpot(replicas=3), decode=Spot(labels={"a": "b"}, gpus=1))
    decode = tuple(replace(module, replicas=2) for module in CONFIG.decode)
    assert changed(replace(PLAN, config=replace(CONFIG, decode=decode, cluster=cluster))) == set()


def test_settings_of_the_engine_replace_workers_and_no_router() -> None:
    engine = replace(CONFIG.engine, max_total_tokens=4096)
    assert changed(replace(PLAN, config=replace(CONFIG, engine=engine))) == {"prefill", *DIGESTS}


def test_only_its_own_decode_worker_merges_an_adapter() -> None:
    assert [(module.name, module.merge) for module in needed_part(PLAN, MATH).decode] == [("math", True)]
    assert {(module.kind, module.merge) for module in needed_part(PLAN, PREFILL).decode} == {("lora", False)}


def test_what_cannot_be_scaled_is_named_with_what_can() -> None:
    assert find_group(PLAN, "prefill") == PREFILL
    with pytest.raises(ConfigError, match="router, prefill, math, tool, code"):
        find_group(PLAN, "maths")


def test_a_worker_serves_when_every_router_that_answers_has_it_up() -> None:
    worker = MemberStatus(name="decode-math-0", group=MATH, state="running", is_known=True)
    knows = (("decode-math-0", "up"),)
    first = MemberStatus(name="router-0", group=ROUTER, state="running", is_known=True, workers=knows)
    second = replace(first, name="router-1", workers=(("decode-math-0", "starting"),))
    assert Roster(name="x", members=(worker, first)).is_serving(worker)
    assert not Roster(name="x", members=(worker, first, second)).is_serving(worker)
    assert not Roster(name="x", members=(worker,)).is_serving(worker)
    assert not Roster(name="x", members=(first,)).is_serving(replace(worker, state="moving"))


def doing(name: str, group: Group) -> MemberStatus:
    return MemberStatus(name=name, group=group, state="running")


@pytest.mark.parametrize(
    ("members", "size", "go"),
    [
        # The one that moved away is no more of the group, whatever its name says.
        ([("prefill-0", PREFILL), ("decode-math-0", PREFILL), ("decode-math-1", MATH)], 1, ["decode-math-0"]),
        # Unless nobody else does what it does now.
        ([("prefill-0", MATH), ("decode-math-0", PREFILL), ("decode-math-1", MATH)], 1, ["decode-math-1"]),
        ([("prefill-0", PREFILL), *((f"decode-math-{number}", MATH) for number in range(3))], 1, [2, 1]),
        ([("decode-math-0", PREFILL), ("decode-math-1", MATH), ("prefill-0", PREFILL)], 2, []),
    ],
)
def test_members_that_moved_go_first_and_never_the_last_of_their_role(
    members: list[tuple[str, Group]], size: int, go: list[str | int]
) -> None:
    roster = Roster(name="x", members=tuple(doing(name, group) for name, group in members))
    names = [each if isinstance(each, str) else f"decode-math-{each}" for each in go]
    assert [member.name for member in roster.surplus(MATH, size)] == names


@pytest.mark.parametrize(
    ("states", "go"),
    [
        # One that no node has yet is never kept in the place of one that serves, though nobody else does nothing.
        (["running", "running", "running", None], [3, 2]),
        ([None, "running", "running", "running"], [0, 3]),
        (["failed", "running", "starting", "running"], [2, 0]),
    ],
)
def test_members_that_do_not_run_go_before_those_that_do(states: list[MemberState | None], go: list[int]) -> None:
    members = [
        MemberStatus(name=f"decode-math-{number}", group=MATH if state else None, state=state or "placing")
        for number, state in enumerate(states)
    ]
    assert [member.number for member in Roster(name="x", members=tuple(members)).surplus(MATH, 2)] == go


def test_many_members_that_stand_alike_are_one_line() -> None:
    few = {"prefill-0": "starting on a", "decode-math-0": "starting on b", "prefill-1": "starting on a"}
    assert group_by_text(few) == ["prefill-0, prefill-1: starting on a", "decode-math-0: starting on b"]
    many = {f"decode-math-{number}": "no node has room" for number in range(1000)}
    [line] = group_by_text(many)
    assert line.startswith("decode-math-0, decode-math-1, ")
    assert line.endswith("decode-math-6 and 993 others: no node has room")


def test_modules_whose_names_begin_alike_are_kept_apart() -> None:
    members = tuple(MemberStatus(name=name, state="placing") for name in ("decode-math-0", "decode-math-2-0"))
    roster = Roster(name="x", members=members)
    assert [member.name for member in roster.of(MATH)] == ["decode-math-0"]
    assert [member.name for member in roster.of(Group(role="decode", module="math-2"))] == ["decode-math-2-0"]


def test_members_of_modules_that_are_no_more_in_the_file_are_the_others() -> None:
    names = ("router-1", "prefill-7", "decode-math-3", "decode-math-2-0", "decode-maths-0", "decode-code-0")
    roster = Roster(name="x", members=tuple(MemberStatus(name=name, state="moving") for name in names))
    assert [member.name for member in roster.others(wanted_sizes(PLAN))] == ["decode-math-2-0", "decode-maths-0"]


def test_the_plan_of_the_latest_launch_counts_whoever_answers_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that a launch did not replace keep the plan that they were made by."""
    latest = replace(PLAN, number=2, digests={**DIGESTS, "math": "new"})
    made_by = {"decode-code-0": PLAN, "decode-math-0": latest, "prefill-0": replace(PLAN, number=1)}
    answers = {name: Member(group=MATH, number=0, plan=plan) for name, plan in made_by.items()}
    asked: list[str] = []

    def ask(deployment: str, names: list[str], method: str, *, timeout_s: float) -> dict[str, object]:
        asked.extend([deployment, *names, method])
        return {"router-0": ServerError("it is gone"), **answers}

    monkeypatch.setattr(roster_module, "ask", ask)
    members = tuple(MemberStatus(name=name, state="running") for name in made_by)
    assert roster_module.read_plan(Roster(name="x", members=members)) == latest
    assert asked == ["x", *made_by, "member"]


@pytest.mark.parametrize(("mode", "text", "said"), [(0o644, "s" * 32, "chmod 600"), (0o600, "short", "5 letters")])
def test_secrets_are_for_this_user_alone(tmp_path: Path, mode: int, text: str, said: str) -> None:
    token = tmp_path / "token"
    token.write_text(text)
    token.chmod(mode)
    with pytest.raises(ConfigError, match=said):
        read_admin_key(Cluster(token_file=token), "x")


def test_the_key_to_join_is_not_the_token_and_differs_by_deployment(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("s" * 32 + "\n")
    cluster = Cluster(token_file=token, api_key_file=token)
    keys = {read_admin_key(cluster, "a"), read_admin_key(cluster, "b"), read_api_key(cluster)}
    assert len(keys) == 3
    assert read_api_key(cluster) == "s" * 32
    with pytest.raises(ConfigError, match="no token_file"):
        read_admin_key(Cluster(), "a")


def test_a_node_takes_its_address_in_the_network() -> None:
    assert find_address("127.0.0.0/8", "10.1.1.1") == "127.0.0.1"
    assert find_address(None, "10.1.1.1") == "10.1.1.1"
    with pytest.raises(LaunchError, match=os.uname().nodename):
        find_address("203.0.113.0/24", "10.1.1.1")
