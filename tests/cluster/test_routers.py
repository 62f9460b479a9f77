"""Two routers of one deployment before engines: equal answers by either, and one is killed under load."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle

import httpx
import pytest

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.join.router import launch_router
from prefillshare.serving.join.worker import JoinedWorker, choose_worker, launch_worker
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import plan_joining_worker
from prefillshare.serving.run.cluster import RunningCluster
from tests.routing.routers import session_of
from tests.support.engines import MODELS_DIR
from tests.support.forks import fork_server
from tests.support.marks import starts_engine
from tests.support.reference import Reference
from tests.support.waiting import wait_until

TINY = MODELS_DIR / "tiny"
NUM_TOKENS = 8
WAIT_S = 300.0
PROMPTS = [[20 + (start * 37 + position * 31) % 900 for position in range(60 + 30 * start)] for start in range(3)]


@dataclass(slots=True)
class Routers:
    """Two routers and the workers that have joined both, looked after by a thread as their commands do it."""

    routers: list[RunningCluster]
    workers: list[JoinedWorker] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def look_after(self) -> None:
        """Look after all of them until it is over."""
        while not self.is_over.wait(0.1):
            for part in (*self.workers, *self.routers):
                part.step()

    def state(self, number: int) -> dict:
        """What a router says of itself, the others and the workers; empty while it does not answer."""
        try:
            return httpx.get(f"{self.routers[number].url}/router/state", timeout=5).json()
        except httpx.HTTPError:
            return {}

    def told(self, number: int) -> dict:
        """What a router says of itself, once it answers."""
        states: list[dict] = []
        wait_until(lambda: bool(states.append(self.state(number)) or states[-1]), "it answers")
        return states[-1]

    def num_calls(self, number: int) -> int:
        """How many calls a router has answered."""
        calls: int = self.told(number)["counters"]["calls"]
        return calls

    def sees(self, number: int, other: str) -> bool:
        """Whether a router has both workers, and the other router in this state."""
        state = self.state(number)
        if not state:
            return False
        ups = [worker["state"] for worker in state["workers"]]
        return ups == ["up", "up"] and state["routers"]["others"][0]["state"] == other

    def router_pid(self, number: int) -> int | None:
        """Id of a router's process; None while there is none."""
        found = self.routers[number].processes()
        return next((process.pid for process in found if process.role == "router"), None)

    def ask(self, number: int, prompt: list[int], session: str) -> list[int]:
        """Greedy tokens of the module, by one of the routers."""
        sampling = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
        body = {"input_ids": prompt, "sampling_params": sampling, "session_id": session}
        url = f"{self.routers[number].url}/modules/tool/generate"
        reply = httpx.post(url, json=body, timeout=WAIT_S)
        assert reply.status_code == 200, reply.text
        return reply.json()["output_ids"]


@pytest.fixture(scope="module")
@starts_engine
def running() -> Iterator[Routers]:
    deployment = resolve(load_deployment(MODELS_DIR / "tiny-agents-pd.toml"))
    ports = [free_port(), free_port()]
    told = {"admin_key": "the-admin", "peers": tuple(f"http://127.0.0.1:{port}" for port in ports)}
    found = Routers([launch_router(deployment, LaunchOptions(port=port, **told)) for port in ports])
    thread = threading.Thread(target=found.look_after)
    try:
        for role, module in (("prefill", None), ("decode", "tool")):
            worker = choose_worker(deployment, role, module, f"{role}-here")
            options = LaunchOptions(port=free_port(), admin_key="the-admin")
            forks = fork_server(plan_joining_worker(deployment, worker, options, "key").command)
            urls = [router.url for router in found.routers]
            found.workers.append(launch_worker(deployment, worker, options, urls, borrowed=forks))
        thread.start()
        wait_until(lambda: found.sees(0, "up") and found.sees(1, "up"), "all see all")
        yield found
    finally:
        found.is_over.set()
        if thread.is_alive():
            thread.join()
        for part in (*found.workers, *found.routers):
            part.stop(drain_s=0)


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    reference = Reference(TINY / "base", {"tool": TINY / "tool"})
    return [reference.ask("tool", prompt, NUM_TOKENS).tokens for prompt in PROMPTS]


def _sessions(running: Routers) -> list[str]:
    """One session of each router."""
    first, second = (router.url for router in running.routers)
    return [session_of(first, second), session_of(second, first)]


def test_answers_are_equal_whichever_router_is_asked(running, expected):
    for session in _sessions(running):
        for number in (0, 1):
            assert [running.ask(number, prompt, session) for prompt in PROMPTS] == expected
    states = [running.told(number) for number in (0, 1)]
    assert sum(state["counters"]["calls"] for state in states) == 4 * len(PROMPTS)
    assert all(state["routers"]["forwarded"] > 0 for state in states)


def test_a_router_that_is_killed_under_load_costs_no_call_of_the_other_and_comes_back(running, expected):
    answers: list[tuple[int, list[int]]] = []
    is_over = threading.Event()

    def keep_asking() -> None:
        for number, session in zip(cycle(range(len(PROMPTS))), cycle(_sessions(running)), strict=False):
            if is_over.is_set():
                return
            answers.append((number, running.ask(0, PROMPTS[number], session)))

    clients = [threading.Thread(target=keep_asking) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: len(answers) >= 8, "calls are answered")
        lost = running.router_pid(1)
        os.kill(lost, signal.SIGKILL)
        # Its port stays open until its next process listens there, so the other need not have found it gone.
        wait_until(lambda: running.router_pid(1) not in (None, lost), "it is started again")
        before = len(answers)
        wait_until(lambda: len(answers) >= before + 8, "sessions of both are answered")
        wait_until(lambda: running.sees(0, "up") and running.sees(1, "up"), "it is back")
        wait_until(lambda: running.num_calls(1) > 0, "its sessions are, too")
    finally:
        is_over.set()
        for client in clients:
            client.join()
    assert all(tokens == expected[number] for number, tokens in answers)


def test_an_alias_that_one_router_is_told_is_at_both_and_outlives_them(running, expected):
    def told(number: int) -> dict[str, str]:
        try:
            return httpx.get(f"{running.routers[number].url}/aliases", timeout=5).json()["aliases"]
        except httpx.HTTPError:
            return {}

    headers = {"Authorization": "Bearer the-admin"}
    first, second = (router.url for router in running.routers)
    reply = httpx.put(f"{first}/aliases/newest", json={"module": "tool"}, headers=headers, timeout=WAIT_S)
    assert reply.json()["aliases"] == {"newest": "tool"}
    assert reply.json()["routers"].keys() == {second}  # which may be too busy to answer at once
    wait_until(lambda: told(1) == {"newest": "tool"}, "the other knows the alias")
    for numbers in ((1,), (0,), (0, 1)):
        lost = {number: running.router_pid(number) for number in numbers}
        for pid in lost.values():
            os.kill(pid, signal.SIGKILL)
        for number, pid in lost.items():
            wait_until(
                lambda pid=pid, number=number: running.router_pid(number) not in (None, pid), "it is started again"
            )
            wait_until(lambda number=number: told(number) == {"newest": "tool"}, "it knows the alias")
    sampling = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
    body = {"input_ids": PROMPTS[0], "sampling_params": sampling}
    reply = httpx.post(f"{second}/modules/newest/generate", json=body, timeout=WAIT_S)
    assert reply.json()["output_ids"] == expected[0]
