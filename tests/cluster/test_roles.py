"""Workers of one launch follow the load: a decode replica becomes a prefill worker, that one a replica of another
module, and that one of the first module again, while answers go on and stay those of the reference."""

import itertools
import os
import re
import signal
import threading
from collections.abc import Iterator
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
LIMITS = Limits(min=1, max=2)
ROLES = Roles(
    follow_load=True,
    interval_s=0.25,
    window_s=2.0,
    prefill_wait_ms=100,
    decode_wait_ms=100,
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
            max_running_per_worker=4,
            health_interval_s=1.0,
            health_timeout_s=WAIT_S,
            queue_timeout_s=WAIT_S,
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


def are_up(cluster: Cluster, *names: str) -> bool:
    """Whether these are the router's workers, and the launch's, and all of them are up."""
    running = {process.name for process in cluster.running.processes()} - {"router"}
    return running == set(names) and workers(cluster) == dict.fromkeys(names, "up")


def moves(cluster: Cluster) -> dict[str, int]:
    """What became of moves, as the dashboard is told."""
    counts: dict[str, int] = cluster.http.get("/deployment/state").json()["role_moves"]
    return counts


def wait_for_moves(cluster: Cluster, counts: dict[str, int]) -> None:
    """Wait until the router has heard of so many: it is told of an end a moment after the worker serves."""
    cluster.wait(lambda: moves(cluster) == counts, f"{counts}")


def wait(cluster: Cluster, *names: str) -> None:
    """Wait until just these workers are there."""
    cluster.wait(lambda: are_up(cluster, *names), f"{names} are there, not {workers(cluster)}")


def test_workers_go_where_calls_wait_and_no_call_fails(cluster, expected):
    before = ("prefill-0", "decode-math-0", "decode-math-1", "decode-tool-0")
    wait(cluster, *before)
    with calling(cluster, expected, "math", callers=8, length=2500, num_tokens=1):
        wait(cluster, "prefill-0", "prefill-1", "decode-math-0", "decode-tool-0")
    with calling(cluster, expected, "tool", callers=8, length=20, num_tokens=200):
        wait(cluster, "prefill-0", "decode-math-0", "decode-tool-0", "decode-tool-1")
    with calling(cluster, expected, "math", callers=8, length=20, num_tokens=200):
        wait(cluster, *before)
    wait_for_moves(cluster, {"done": 3, "failed": 0, "would": 0})
    told = [event for event in cluster.http.get("/deployment/state").json()["events"] if event["kind"] == "move"]
    assert [event["message"].split(":")[0] for event in told if event["message"].startswith("moves")] == [
        "moves from math to prefill",
        "moves from prefill to tool",
        "moves from tool to math",
    ]
    assert 'prefillshare_role_moves_total{outcome="done"} 3.0' in cluster.http.get("/metrics").text


def test_a_worker_that_does_not_come_up_is_what_it_was_again(cluster, expected, monkeypatch):
    """And one that is killed while it drains is moved all the same. The router is started again in the middle."""
    before = ("prefill-0", "decode-math-0", "decode-math-1", "decode-tool-0")
    wait(cluster, *before)
    plan = launch_ground.plan_in_place

    def plan_badly(*args: object) -> PlannedWorker:
        planned = plan(*args)
        return replace(planned, command=replace(planned.command, argv=(*planned.command.argv, "--no-such-flag")))

    counts = moves(cluster)
    with calling(cluster, expected, "tool", callers=8, length=20, num_tokens=200):
        monkeypatch.setattr(launch_ground, "plan_in_place", plan_badly)
        cluster.wait(lambda: any("did not come up" in text for text in cluster.said), "the new worker ended")
        monkeypatch.setattr(launch_ground, "plan_in_place", plan)
        cluster.wait(lambda: moves(cluster)["failed"] > 0, "the router heard that it failed")
        told = cluster.http.get("/deployment/state").json()["events"]
        failed = [event for event in told if event["kind"] == "move_failed"]
        assert failed[0]["message"].startswith("could not become a decode worker of 'tool': ")
        wait(cluster, "prefill-0", "decode-math-0", "decode-tool-0", "decode-tool-1")
    wait_for_moves(cluster, {**counts, "done": counts["done"] + 1, "failed": moves(cluster)["failed"]})


def test_a_router_that_is_started_again_knows_the_workers_of_now(cluster, expected):
    names = {process.name for process in cluster.running.processes()} - {"router"}
    assert "decode-tool-1" in names
    pid = cluster.process("router").pid
    os.killpg(pid, signal.SIGKILL)
    cluster.wait(lambda: cluster.process("router").pid not in (pid, None), "the router is started again")
    wait(cluster, *names)
    assert ask(cluster, "tool", PROMPTS[1], NUM_TOKENS) == expected["tool"][1]


def test_the_router_may_be_killed_in_the_middle_of_a_move(cluster, expected):
    """Nothing is doubled and nothing is lost: it hears of the move when it is back."""
    assert "decode-math-1" not in workers(cluster)
    with calling(cluster, expected, "math", callers=8, length=20, num_tokens=200, is_interrupted=True):
        cluster.wait(lambda: any(p.name == "decode-math-1" for p in cluster.running.processes()), "a move has begun")
        os.killpg(cluster.process("router").pid, signal.SIGKILL)
        # Either of the two is moved: they are equally idle.
        left = [process.name for process in cluster.running.processes() if process.module == "tool"]
        assert len(left) == 1
        wait(cluster, "prefill-0", "decode-math-0", "decode-math-1", *left)
    cluster.wait(lambda: moves(cluster)["done"] == 1, "the router that was started again heard of the end")
