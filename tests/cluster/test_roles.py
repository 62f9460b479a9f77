"""Workers of one launch follow the load: a decode replica becomes a prefill worker, that one a replica of another
module, and that one of the first module again, while answers go on and stay those of the reference."""

import itertools
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import httpx
import pytest

from prefillshare.config import Deployment, Limits, Roles, load_deployment
from prefillshare.serving.plan.processes import PlannedWorker
from prefillshare.serving.run import launch_ground
from tests.cluster.conftest import KV_TOKENS, Cluster, running_cluster
from tests.support.engines import MODELS_DIR
from tests.support.marks import starts_engine
from tests.support.reference import Reference

TINY = MODELS_DIR / "tiny"
NUM_TOKENS = 8
WAIT_S = 300.0
PROMPTS = [[20 + (start * 37 + position * 31) % 900 for position in range(40 + 30 * start)] for start in range(3)]
LOST_ROUTER = re.compile(r"Connect|disconnected|reset|attempts failed|no (prefill|decode) worker|50[23]|starting")
"""What callers hear while no router is there, or one that has not found its workers yet."""
WAIT_MS = 100
MOST_RUNNING = 4
MOVE = re.compile(
    r"moves from (?P<before>\w+) to (?P<after>\w+): for 2 s calls waited (?P<wait_s>[\d.]+) s or more "
    r"for (?P<wanting>\w+) \(\d+ workers?, (?P<calls>[\d.]+) calls each\)"
)
LIMITS = Limits(min=1, max=2)
ROLES = Roles(
    follow_load=True,
    interval_s=0.25,
    window_s=2.0,
    prefill_wait_ms=WAIT_MS,
    decode_wait_ms=WAIT_MS,
    cool_down_s=0,
    prefill=LIMITS,
    modules={"math": LIMITS, "tool": LIMITS},
)


def configured(roles: Roles) -> Deployment:
    """1 prefill worker, two replicas of `math`, one of `tool`; a worker takes 4 calls, so further ones wait.

    As long as that takes: on a busy machine no call is given up, and no worker taken for dead.
    """
    config = load_deployment(MODELS_DIR / "tiny-agents-pd.toml")
    math, tool, _ = config.decode
    return replace(
        config,
        name="roles",
        decode=(replace(math, replicas=2), tool),
        router=replace(
            config.router,
            max_running_per_worker=MOST_RUNNING,
            health_interval_s=1.0,
            health_timeout_s=WAIT_S,
            queue_timeout_s=WAIT_S,
            drain_timeout_s=WAIT_S,
        ),
        engine=replace(config.engine, max_total_tokens=KV_TOKENS),
        roles=roles,
    )


@pytest.fixture(scope="module")
@starts_engine
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(configured(ROLES), tmp_path_factory.mktemp("roles")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    """The reference computation's tokens, by module."""
    reference = Reference(TINY / "base", {name: TINY / name for name in ("math", "tool")})
    return {
        module: [reference.ask(module, prompt, NUM_TOKENS).tokens for prompt in PROMPTS] for module in ("math", "tool")
    }


def ask(cluster: Cluster, module: str, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy tokens of a module."""
    sampling = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    body = {"input_ids": prompt, "sampling_params": sampling}
    reply = httpx.post(f"{cluster.running.url}/modules/{module}/generate", json=body, timeout=WAIT_S)
    assert reply.status_code == 200, reply.text
    tokens: list[int] = reply.json()["output_ids"]
    return tokens


@dataclass(slots=True)
class Callers:
    """Threads that call again and again; what went wrong is kept."""

    wrong: list[str] = field(default_factory=list)
    num_calls: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def keep_calling(self, cluster: Cluster, module: str, prompts: Iterator[list[int]], num_tokens: int) -> None:
        """Call until it is over."""
        while not self.over.is_set():
            try:
                ask(cluster, module, next(prompts), num_tokens)
                self.num_calls += 1
            except (AssertionError, httpx.HTTPError) as error:
                self.wrong.append(f"{module}: {error}")

    def keep_comparing(self, cluster: Cluster, expected: dict[str, list[list[int]]]) -> None:
        """Ask what the reference was asked, until it is over."""
        for number in itertools.cycle(range(len(PROMPTS))):
            for module, answers in expected.items():
                if self.over.is_set():
                    return
                try:
                    if ask(cluster, module, PROMPTS[number], NUM_TOKENS) != answers[number]:
                        self.wrong.append(f"{module} answers prompt {number} otherwise than the reference")
                    self.num_calls += 1
                except (AssertionError, httpx.HTTPError) as error:
                    self.wrong.append(f"{module}: {error}")


def new_prompts(length: int) -> Iterator[list[int]]:
    """Prompts of which none begins as another one, so that none is cached."""
    for number in itertools.count():
        yield [
            20 + number % 900,
            20 + number // 900,
            *(20 + (number + position * 17) % 900 for position in range(length)),
        ]


@contextmanager
def calling(
    cluster: Cluster,
    expected: dict[str, list[list[int]]],
    module: str,
    *,
    callers: int,
    length: int,
    num_tokens: int,
    is_interrupted: bool = False,
) -> Iterator[Callers]:
    """Load one module while both are compared with the reference; nothing may have gone wrong in the end."""
    calls, prompts, lock = Callers(), new_prompts(length), threading.Lock()

    def take() -> Iterator[list[int]]:
        while True:
            with lock:
                prompt = next(prompts)
            yield prompt

    threads = [
        threading.Thread(target=calls.keep_calling, args=(cluster, module, take(), num_tokens)) for _ in range(callers)
    ]
    threads.append(threading.Thread(target=calls.keep_comparing, args=(cluster, expected)))
    for thread in threads:
        thread.start()
    try:
        yield calls
    finally:
        calls.over.set()
        for thread in threads:
            thread.join()
    assert [text for text in calls.wrong if not (is_interrupted and LOST_ROUTER.search(text))] == []
    assert calls.num_calls > 0


def workers(cluster: Cluster) -> dict[str, str]:
    """The router's workers, by state."""
    try:
        told = cluster.http.get("/workers").json()["workers"]
    except httpx.HTTPError:
        return {}
    return {worker["id"]: worker["state"] for worker in told}


def doing(cluster: Cluster) -> Counter[str]:
    """How many of the launch's workers do what: which of them is moved is the one with the fewest calls at a moment."""
    return Counter(one.module or one.role for one in cluster.running.processes() if one.role != "router")


def are_up(cluster: Cluster, numbers: Mapping[str, int]) -> bool:
    """Whether so many workers do what, and all of them, and nobody else, are up for the router."""
    names = {process.name for process in cluster.running.processes()} - {"router"}
    return doing(cluster) == numbers and workers(cluster) == dict.fromkeys(names, "up")


def moves(cluster: Cluster) -> dict[str, int]:
    """What became of moves, as the dashboard is told."""
    counts: dict[str, int] = cluster.http.get("/deployment/state").json()["role_moves"]
    return counts


def wait_until_settled(cluster: Cluster) -> None:
    """Wait until no move is on its way: the router is told of an end a moment after the worker serves."""
    cluster.wait(lambda: cluster.http.get("/router/roles").json()["order"] is None, "moves have come to their end")


def wait(cluster: Cluster, **numbers: int) -> None:
    """Wait until so many workers do what."""
    cluster.wait(lambda: are_up(cluster, numbers), f"{numbers} are there, not {workers(cluster)}")


def events(cluster: Cluster, kind: str) -> list[str]:
    """What the router told of moves."""
    told = cluster.http.get("/deployment/state").json()["events"]
    return [event["message"] for event in told if event["kind"] == kind]


def way(cluster: Cluster) -> list[tuple[str, str]]:
    """From what to what workers were moved; where each one came, it was wanted."""
    found = [MOVE.match(text) for text in events(cluster, "move") if text.startswith("moves from")]
    steps = [(move["before"], move["after"]) for move in found if move and is_right(move)]
    assert len(steps) == len(found), events(cluster, "move")
    return steps


def is_right(move: re.Match[str]) -> bool:
    """Calls have waited for so long as they must, or so many decode at each worker (`busy_calls`)."""
    is_busy = move["after"] != "prefill" and float(move["calls"]) >= MOST_RUNNING // 2
    return move["wanting"] == move["after"] and (float(move["wait_s"]) >= WAIT_MS / 1000 or is_busy)


def test_workers_go_where_calls_wait_and_no_call_fails(cluster, expected):
    wait(cluster, prefill=1, math=2, tool=1)
    with calling(cluster, expected, "math", callers=8, length=2500, num_tokens=1):
        wait(cluster, prefill=2, math=1, tool=1)
    with calling(cluster, expected, "tool", callers=8, length=20, num_tokens=200):
        wait(cluster, prefill=1, math=1, tool=2)
    with calling(cluster, expected, "math", callers=8, length=20, num_tokens=200):
        wait(cluster, prefill=1, math=2, tool=1)
    wait_until_settled(cluster)
    steps = way(cluster)
    # One worker is more than there must be, and goes from one to the next. It has no other way than by these three; on
    # a machine that stands still for seconds, calls wait elsewhere as well, and it may go by there.
    assert [before for before, _ in steps] == ["math", *(after for _, after in steps[:-1])]
    stations = iter([after for _, after in steps])
    assert all(wanted in stations for wanted in ("prefill", "tool", "math")), steps
    assert moves(cluster) == {"done": len(steps), "failed": 0, "would": 0}
    assert f'prefillshare_role_moves_total{{outcome="done"}} {len(steps)}.0' in cluster.http.get("/metrics").text


def test_a_worker_that_does_not_come_up_is_what_it_was_again(cluster, expected, monkeypatch):
    """And one that is killed while it drains is moved all the same. The router is started again in the middle."""
    wait(cluster, prefill=1, math=2, tool=1)
    plan = launch_ground.plan_in_place

    def plan_badly(*args: object) -> PlannedWorker:
        planned = plan(*args)
        return replace(planned, command=replace(planned.command, argv=(*planned.command.argv, "--no-such-flag")))

    counts = moves(cluster)
    with calling(cluster, expected, "tool", callers=8, length=20, num_tokens=200):
        monkeypatch.setattr(launch_ground, "plan_in_place", plan_badly)
        cluster.wait(lambda: any("did not come up" in text for text in cluster.said), "the new worker ended")
        beginning = "could not become a decode worker of 'tool': "
        cluster.wait(
            lambda: any(text.startswith(beginning) for text in events(cluster, "move_failed")),
            "the router heard that it failed",
        )
        monkeypatch.setattr(launch_ground, "plan_in_place", plan)
        wait(cluster, prefill=1, math=1, tool=2)
    wait_until_settled(cluster)
    assert moves(cluster)["failed"] == len(events(cluster, "move_failed"))
    assert moves(cluster)["done"] > counts["done"]


def test_a_router_that_is_started_again_knows_the_workers_of_now(cluster, expected):
    before = doing(cluster)
    assert before["tool"] == 2
    pid = cluster.process("router").pid
    os.killpg(pid, signal.SIGKILL)
    cluster.wait(lambda: cluster.process("router").pid not in (pid, None), "the router is started again")
    wait(cluster, **before)
    assert ask(cluster, "tool", PROMPTS[1], NUM_TOKENS) == expected["tool"][1]


def test_the_router_may_be_killed_in_the_middle_of_a_move(cluster, expected):
    """Nothing is doubled and nothing is lost: it hears of the move when it is back."""
    assert doing(cluster)["math"] == 1
    with calling(cluster, expected, "math", callers=8, length=20, num_tokens=200, is_interrupted=True):
        cluster.wait(lambda: doing(cluster)["math"] == 2, "a move has begun")
        os.killpg(cluster.process("router").pid, signal.SIGKILL)
        wait(cluster, prefill=1, math=2, tool=1)
    cluster.wait(lambda: moves(cluster)["done"] >= 1, "the router that was started again heard of the end")
