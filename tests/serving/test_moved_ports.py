"""A worker that moves again and again gives back the ports that it had, a move later: others may still look for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.roles.report import MoveReport
from prefillshare.serving.join.announcer import Announcer
from prefillshare.serving.join.ground import JoinGround
from prefillshare.serving.join.worker import choose_worker
from prefillshare.serving.machine import ports as ports_module
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import PlannedWorker, plan_joining_worker, plan_workers
from prefillshare.serving.plan.workers import Worker
from prefillshare.serving.run.engine_ground import EngineGround
from prefillshare.serving.run.launch_ground import LaunchGround
from prefillshare.serving.run.moves import Mover, Order
from prefillshare.serving.run.router_process import RouterFile
from prefillshare.serving.run.supervisor import Supervised, Supervisor
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


def test_workers_of_modules_that_come_and_go_need_few_ports(
    deployment: ResolvedDeployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = LaunchOptions(port=30500, admin_key=KEY)
    workers = plan_workers(deployment, options, KEY, tmp_path)
    file = RouterFile.create(tmp_path, deployment, options, workers, KEY)
    ground = LaunchGround(deployment, options, workers, file, "http://127.0.0.1:30500")
    monkeypatch.setattr(ports_module, "usual_ports", lambda: neighbouring)
    neighbouring = list(neighbouring_ports(NUM_PORTS))
    for _ in range(NUM_MOVES):
        with pytest.raises(LaunchError, match="no free port"):
            ground.plan_more(deployment, "math", NUM_PORTS)
        planned = ground.plan_more(deployment, "math", 2)
        ground.add(planned)
        ground.drop(planned)
    assert ground.workers == workers


def test_an_engine_that_is_planned_again_gives_back_the_port_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports_module, "usual_ports", lambda: neighbouring)
    neighbouring = list(neighbouring_ports(2))
    deployment = resolve(load_deployment(MODELS_DIR / "tiny-agents.toml"))
    ground = EngineGround(deployment, LaunchOptions(port=30500), lambda text: None)
    for _ in range(NUM_MOVES):
        ground.command_again()
    ground.end()


class Refused(JoinGround):
    """Its router gives orders, and does not want to hear that they are carried out."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.reports: list[MoveReport] = []

    def ask_order(self) -> Order:
        return {"id": "1", "worker": "any", "after": "tool", "reason": "calls wait"}

    def report(self, report: MoveReport) -> int:
        self.reports.append(report)
        return 409


@pytest.fixture
def make_refused(deployment: ResolvedDeployment) -> Iterator[Callable[[int], tuple[Refused, Mover]]]:
    made: list[Refused] = []

    def make(num_ports: int) -> tuple[Refused, Mover]:
        def choose(module: str | None) -> Worker:
            return choose_worker(deployment, "decode" if module else "prefill", module, "any")

        def watch(planned: PlannedWorker) -> Supervised:
            return Supervised(name="any", role="decode", url="", start=pytest.fail, is_ready=lambda: False)

        options = LaunchOptions(port=30400, ports=neighbouring_ports(num_ports), admin_key=KEY)
        planned = plan_joining_worker(deployment, choose(None), options, "key", can_move=True)
        announcer = Announcer([], {"id": "any"}, KEY, lambda text: None)
        ground = Refused(deployment, options, planned, announcer, choose=choose, describe=lambda planned: {})
        made.append(ground)
        supervisor = Supervisor([], lambda text: None)
        return ground, Mover(ground, supervisor=supervisor, watch=watch, say=lambda text: None, start_timeout_s=5)

    yield make
    for ground in made:
        ground.end()


def step(mover: Mover, times: int) -> None:
    for _ in range(times):
        mover._next_at = 0.0  # it speaks once a second
        mover.step()


def test_a_move_that_the_router_does_not_want_any_more_takes_no_port(
    make_refused: Callable[[int], tuple[Refused, Mover]],
) -> None:
    ground, mover = make_refused(4)
    step(mover, NUM_MOVES)
    assert [report.word for report in ground.reports] == ["begun"] * NUM_MOVES
    assert not mover.is_moving


def test_a_worker_for_whose_move_no_port_is_free_stays_what_it_is(
    make_refused: Callable[[int], tuple[Refused, Mover]],
) -> None:
    ground, mover = make_refused(2)
    step(mover, 2)
    [report] = ground.reports
    assert (report.word, report.worker) == ("failed", "any")
    assert "no free port was found" in str(report.message)
    assert not mover.is_moving
