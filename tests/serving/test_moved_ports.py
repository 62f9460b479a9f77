"""A worker that moves again and again gives back the ports that it had, a move later: others may still look for it."""

from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.serving.join.announcer import Announcer
from prefillshare.serving.join.ground import JoinGround
from prefillshare.serving.join.worker import choose_worker
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import plan_joining_worker, plan_workers
from prefillshare.serving.plan.workers import Worker
from prefillshare.serving.run.launch_ground import LaunchGround
from prefillshare.serving.run.router_process import RouterFile
from tests.support.engines import MODELS_DIR
from tests.support.port_ranges import neighbouring_ports

NUM_PORTS = 8
NUM_MOVES = 12
KEY = "the-admin"


@pytest.fixture(scope="module")
def deployment() -> ResolvedDeployment:
    return resolve(load_deployment(MODELS_DIR / "tiny-agents-pd.toml"))


def test_a_worker_that_joined_needs_few_ports(deployment: ResolvedDeployment) -> None:
    def choose(module: str | None) -> Worker:
        return choose_worker(deployment, "decode" if module else "prefill", module, "any")

    options = LaunchOptions(port=30400, ports=neighbouring_ports(NUM_PORTS), admin_key=KEY)
    planned = plan_joining_worker(deployment, choose(None), options, "key", can_move=True)
    announcer = Announcer([], {"id": "any"}, KEY, lambda text: None)
    ground = JoinGround(deployment, options, planned, announcer, choose=choose, describe=lambda planned: {})
    for number in range(NUM_MOVES):
        [before] = ground.workers
        after = ground.plan(before, "tool" if number % 2 == 0 else None)
        assert not set(before.place.held_ports) & set(after.place.held_ports)
        ground.exchange(before, after)
    ground.end()
    again = [plan_joining_worker(deployment, choose(None), options, "key") for _ in range(NUM_PORTS // 2)]
    assert len({port for planned in again for port in planned.place.held_ports}) == NUM_PORTS


def test_a_worker_of_a_launch_takes_no_port_that_it_does_not_need(
    deployment: ResolvedDeployment, tmp_path: Path
) -> None:
    """It keeps its own, and a prefill worker has a bootstrap port that no other one had lately."""
    options = LaunchOptions(port=30500, admin_key=KEY)
    workers = plan_workers(deployment, options, KEY, tmp_path)
    file = RouterFile.create(tmp_path, deployment, options, workers, KEY)
    ground = LaunchGround(deployment, options, workers, file, "http://127.0.0.1:30500")
    before, seen = ground.workers[1], []
    for number in range(4):
        after = ground.plan(before, None if number % 2 == 0 else "tool")
        assert (after.place.port, after.place.nccl_port) == (before.place.port, before.place.nccl_port)
        ground.exchange(before, after)
        seen.append(after.place.bootstrap_port)
        before = after
    assert seen[1] is seen[3] is None
    assert None not in (seen[0], seen[2])
    assert seen[0] != seen[2]
