"""Where members of a deployment would go on a cluster, and what is said of one that no node takes."""

from dataclasses import replace

import pytest

from prefillshare.cluster.nodes import Node, explain_waiting, place_members
from prefillshare.cluster.status import MemberStatus
from prefillshare.config import Cluster
from prefillshare.config.cluster import RouterSpot, Spot
from tests.cluster.test_ray_plan import PLAN

FRONT = Node(
    id="f", name="front", labels={"place": "front", "ray.io/node-id": "f"}, gpus=0, cpus=4, free_gpus=0, free_cpus=4
)
BACK = replace(FRONT, id="b", name="back", labels={"place": "back"}, gpus=2, free_gpus=1)
SIDE = replace(BACK, id="s", name="side", free_gpus=0, free_cpus=1)


@pytest.mark.parametrize(
    ("labels", "fits"),
    [
        ({}, True),
        ({"place": "back"}, True),
        ({"place": "!back"}, False),
        ({"place": "in(front, back)"}, True),
        ({"place": "!in(front,side)"}, True),
        ({"place": "!in(front,back)"}, False),
        ({"other": "x"}, False),
        ({"other": "!x"}, True),
        ({"place": "back", "other": "x"}, False),
    ],
)
def test_conditions_are_those_of_ray(labels: dict[str, str], fits: bool) -> None:
    assert BACK.has_labels(labels) == fits


@pytest.mark.parametrize(
    ("spot", "said"),
    [
        (Spot(labels={"place": "moon"}), "no node has place=moon (there are: place=back; place=front)"),
        (Spot(labels={"place": "front"}, gpus=1), "no node with place=front has 1 GPU and 1 CPU at all"),
        (Spot(labels={"place": "back"}, gpus=2), "2 GPUs and 1 CPU free (back: 1 of 2 GPUs, 4 of 4 CPUs; side: 0 of"),
        (Spot(labels={"place": "back"}, gpus=1), "there is room for it on back"),
        (Spot(cpus=9), "no node of the cluster has 9 CPUs at all"),
    ],
)
def test_what_is_missing_is_said(spot: Spot, said: str) -> None:
    assert said in explain_waiting(spot, [FRONT, BACK, SIDE])


def test_members_take_room_from_each_other_and_those_that_are_there_stay() -> None:
    back = Spot(labels={"place": "back"}, gpus=1)
    cluster = Cluster(router=RouterSpot(labels={"place": "front"}), prefill=back, decode=back)
    plan = replace(PLAN, config=replace(PLAN.config, cluster=cluster))
    known = [MemberStatus(name="prefill-0", state="running", node="back", node_id="b")]
    placed = {each.member.name: each for each in place_members(plan, [FRONT, BACK, SIDE], known)}
    assert (placed["prefill-0"].node, placed["prefill-0"].is_there) == ("back", True)
    assert placed["router-0"].node == "front"
    first, *others = [each for name, each in placed.items() if name.startswith("decode-")]
    assert (first.node, first.is_there) == ("back", False)
    assert others
    for other in others:
        assert other.node is None
        assert "back: 0 of 2 GPUs" in other.reason
