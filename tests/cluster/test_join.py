"""A deployment put together from a router and workers that were started one by one, at an address that others reach."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import httpx
import psutil
import pytest

from prefillshare.config import Roles, load_deployment
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.serving.join.announcer import INTERVAL_S
from prefillshare.serving.join.router import launch_router
from prefillshare.serving.join.worker import JoinedWorker, choose_worker, launch_worker
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import plan_joining_worker
from prefillshare.serving.plan.workers import Worker
from prefillshare.serving.run.cluster import RunningCluster
from tests.support.engines import MODELS_DIR, flush
from tests.support.forks import fork_server
from tests.support.marks import starts_engine
from tests.support.reference import Reference

TINY = MODELS_DIR / "tiny"
NUM_TOKENS = 8
WAIT_S = 300.0
KNOWN_AGAIN_S = 10.0
"""A router that was started anew knows every worker by then, on a machine that holds nothing up."""
PROMPTS = [[20 + (start * 37 + position * 31) % 900 for position in range(60 + 30 * start)] for start in range(3)]
KEYS = {"admin_key": "the-admin"}
ROLES = Roles(follow_load=True, interval_s=0.25, window_s=2.0, prefill_wait_ms=100, cool_down_s=0)


def own_address() -> str:
    """An address of this machine that others would reach; the loopback one where there is no other."""
    addresses = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
    usable = [address for address in addresses if address.count(".") == 3 and not address.startswith("127.")]
    return next(iter(usable), "127.0.0.1")


@dataclass(slots=True)
class Joined:
    """A router and its workers, each looked after as its own command does it."""

    deployment: ResolvedDeployment
    router: RunningCluster
    port: int
    workers: dict[str, JoinedWorker] = field(default_factory=dict)

    def step(self) -> None:
        """Look after all of them once."""
        for worker in self.workers.values():
            worker.step()
        self.router.step()

    def wait(self, until: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Look after them until it is so."""
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, f"{what} within {timeout_s:.0f} s"
            self.step()
            time.sleep(0.1)

    def states(self) -> dict[str, str]:
        """What the router thinks of each worker."""
        reply = httpx.get(f"{self.router.url}/workers", timeout=60)
        return {worker["id"]: worker["state"] for worker in reply.json()["workers"]}

    def are_up(self) -> bool:
        """Whether the router sends calls to all of them."""
        try:
            return self.states() == dict.fromkeys(self.workers, "up")
        except httpx.HTTPError:
            return False

    def ask(self, prompt: list[int]) -> list[int]:
        """Greedy tokens of the module."""
        sampling = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
        body = {"input_ids": prompt, "sampling_params": sampling}
        reply = httpx.post(f"{self.router.url}/modules/tool/generate", json=body, timeout=WAIT_S)
        assert reply.status_code == 200, reply.text
        return reply.json()["output_ids"]


def _start_router(deployment: ResolvedDeployment, port: int) -> RunningCluster:
    return launch_router(deployment, LaunchOptions(host="127.0.0.1", port=port, **KEYS))


@pytest.fixture(scope="module")
@starts_engine
def joined() -> Iterator[Joined]:
    config = load_deployment(MODELS_DIR / "tiny-agents-pd.toml")
    # On a busy machine no call is given up, and no worker taken for dead.
    router = replace(config.router, kv_events=True, health_timeout_s=60.0, queue_timeout_s=WAIT_S)
    config = replace(config, router=router, roles=ROLES)
    deployment, host, port = resolve(config), own_address(), free_port()
    running = Joined(deployment, _start_router(deployment, port), port)
    try:
        for role, module in (("prefill", None), ("decode", "tool")):
            worker = choose_worker(deployment, role, module, f"{role}-here")
            options = LaunchOptions(host=host, port=free_port(host), **KEYS)
            forks = fork_server(plan_joining_worker(deployment, worker, options, "key").command)
            running.workers[worker.name] = launch_worker(
                deployment, worker, options, [running.router.url], borrowed=forks
            )
        running.wait(running.are_up, "both workers are up")
        yield running
    finally:
        for joined_worker in running.workers.values():
            joined_worker.stop(drain_s=0)
        running.router.stop(drain_s=0)


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return _ask_reference("tool")


def _ask_reference(module: str) -> list[list[int]]:
    reference = Reference(TINY / "base", {module: TINY / module})
    return [reference.ask(module, prompt, NUM_TOKENS).tokens for prompt in PROMPTS]


def test_answers_are_those_of_one_machine(joined, expected):
    assert [joined.ask(prompt) for prompt in PROMPTS] == expected


def test_workers_listen_at_their_address_only(joined):
    """And on the loopback interface, where the processes of one worker talk."""
    parents = [psutil.Process(worker.pid) for worker in joined.workers.values()]
    processes = [member for parent in parents for member in (parent, *parent.children(recursive=True))]
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert own_address() in listening
    assert listening <= {own_address(), "127.0.0.1"}


def test_the_router_hears_what_the_prefill_worker_evicts(joined):
    joined.ask(PROMPTS[0])
    joined.wait(lambda: _held_bytes(joined) > 0, "the router knows what is held")
    worker = joined.workers["prefill-here"]
    key = {"Authorization": f"Bearer {worker.api_key}"}
    with httpx.Client(base_url=worker.planned.place.url, headers=key, timeout=30) as http:
        flush(http)
    joined.wait(lambda: _held_bytes(joined) == 0, "the router knows what was evicted")


def _held_bytes(joined: Joined) -> int:
    state = httpx.get(f"{joined.router.url}/router/state", timeout=60).json()
    return next(worker["held_bytes"] for worker in state["workers"] if worker["id"] == "prefill-here")


def test_a_router_that_was_started_anew_knows_its_workers_within_seconds(joined, expected):
    joined.router.kill()
    joined.router = _start_router(joined.deployment, joined.port)
    assert 2 * INTERVAL_S < KNOWN_AGAIN_S, "it hears of each even if it misses one announcement"
    joined.wait(lambda: set(joined.states()) == set(joined.workers), "both are known again")
    joined.wait(joined.are_up, "both are up again")
    assert joined.ask(PROMPTS[0]) == expected[0]


@pytest.mark.parametrize("name", ["decode-here", "prefill-here"])
def test_a_worker_that_was_killed_is_started_again_and_answers(joined, expected, name):
    restarts = joined.workers[name].processes()[0].num_restarts
    os.killpg(joined.workers[name].pid, signal.SIGKILL)
    joined.wait(lambda: joined.workers[name].processes()[0].num_restarts > restarts, f"{name} is started again")
    joined.wait(lambda: joined.workers[name].processes()[0].state == "running", f"{name} answers")
    joined.wait(joined.are_up, "both are up")
    assert joined.ask(PROMPTS[1]) == expected[1]


def _start(joined: Joined, name: str) -> JoinedWorker:
    """Start a further decode worker that may be moved."""

    def choose(module: str | None) -> Worker:
        return choose_worker(joined.deployment, "decode" if module else "prefill", module, name)

    host = own_address()
    options, worker = LaunchOptions(host=host, port=free_port(host), **KEYS), choose("tool")
    forks = fork_server(plan_joining_worker(joined.deployment, worker, options, "key").command)
    routers = [joined.router.url]
    return launch_worker(joined.deployment, worker, options, routers, choose=choose, borrowed=forks)


def test_a_worker_for_any_role_goes_where_calls_wait(joined, expected):
    """It keeps its name and its address; its answers, and those made over its KV, are the reference's."""
    joined.workers["any"] = worker = _start(joined, "any")
    url, over, failed = worker.planned.place.url, threading.Event(), []

    def keep_calling(number: int) -> None:
        while not over.is_set():
            number += 10
            prompt = [20 + number % 900, 20 + number // 900, *(20 + (number + 7 * i) % 900 for i in range(2500))]
            try:
                joined.ask(prompt)
            except (AssertionError, httpx.HTTPError) as error:
                failed.append(str(error))

    threads = [threading.Thread(target=keep_calling, args=(number,)) for number in range(8)]
    try:
        joined.wait(joined.are_up, "the further worker is up")
        for thread in threads:
            thread.start()
        joined.wait(lambda: worker.planned.worker.role == "prefill", "it is told to move")
        joined.wait(lambda: _moves(joined)["done"] == 1 and joined.are_up(), "it serves in its new role")
        assert (worker.planned.place.url, worker.processes()[0].name) == (url, "any")
        for prompt, tokens in zip(PROMPTS, expected, strict=True):
            assert joined.ask(prompt) == tokens
    finally:
        over.set()
        for thread in threads:
            thread.join()
        joined.workers.pop("any").stop(drain_s=60)
    assert failed == []


def _moves(joined: Joined) -> dict[str, int]:
    return httpx.get(f"{joined.router.url}/router/roles", timeout=60).json()["moves"]


def test_new_weights_take_the_place_of_old_ones_without_a_failed_call(joined, expected):
    """As docs/several-machines.md says it: a worker with the new file joins, then the old one leaves."""
    config = joined.deployment.config
    [code] = [module for module in config.decode if module.name == "code"]
    decode = [replace(module, path=code.path) if module.name == "tool" else module for module in config.decode]
    renewed, wanted = resolve(replace(config, decode=tuple(decode))), _ask_reference("code")
    assert wanted != expected
    answers, over, has_left = [], threading.Event(), threading.Event()

    def keep_asking() -> None:
        for number, prompt in itertools.cycle(enumerate(PROMPTS)):
            if over.is_set():
                return
            is_alone = has_left.is_set()
            answers.append((number, joined.ask(prompt), is_alone))

    callers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        options, worker = (
            LaunchOptions(host=own_address(), port=free_port(own_address()), **KEYS),
            choose_worker(renewed, "decode", "tool", "decode-new"),
        )
        forks = fork_server(plan_joining_worker(renewed, worker, options, "key").command)
        new = launch_worker(renewed, worker, options, [joined.router.url], borrowed=forks)
        joined.workers["decode-new"] = new
        joined.wait(joined.are_up, "the worker with the new weights is up")
        joined.wait(lambda: any(tokens == wanted[number] for number, tokens, _ in answers), "it answers")
        joined.workers.pop("decode-here").stop(drain_s=60)
        joined.wait(joined.are_up, "the router knows that the other has left")
        has_left.set()
        joined.wait(lambda: sum(is_alone for *_, is_alone in answers) > len(callers), "it answers alone")
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert all(tokens in (expected[number], wanted[number]) for number, tokens, _ in answers)
    assert all(tokens == wanted[number] for number, tokens, is_alone in answers if is_alone)


def test_a_worker_that_is_told_to_leave_says_so_and_is_not_let_in_again(joined):
    worker = joined.workers.pop("decode-new")
    try:
        url, admin = f"{joined.router.url}/workers/decode-new", {"Authorization": "Bearer the-admin"}
        assert httpx.delete(url, headers=admin, timeout=WAIT_S).json() == {"id": "decode-new", "unfinished": 0}
        deadline = time.monotonic() + WAIT_S
        while not worker.is_dismissed:
            assert time.monotonic() < deadline
            worker.step()
            time.sleep(0.1)
        assert "decode-new" not in joined.states()
    finally:
        worker.stop(drain_s=0)


def test_a_worker_that_ends_has_left_its_routers(joined):
    worker = joined.workers.pop("prefill-here")
    worker.stop(drain_s=60)
    assert joined.states() == {}
