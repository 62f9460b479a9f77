"""An ordinary adapter in a disaggregated deployment, served by two engines of its own: they are killed under load, and
the module comes, changes and goes. No call fails that another engine can answer."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from prefillshare.config import DecodeModule, load_deployment
from prefillshare.serving.join.worker import choose_worker, launch_worker
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import plan_joining_worker
from tests.cluster.conftest import Cluster, running_cluster
from tests.cluster.test_modules import answers, change, reason, workers_of
from tests.support.engines import MODELS_DIR
from tests.support.forks import fork_server
from tests.support.marks import starts_engine
from tests.support.monitoring import read_state, worker_of

TINY = MODELS_DIR / "tiny"
ENGINES = ("decode-own-0", "decode-own-1")
LONG = {"max_tokens": 3000, "ignore_eos": True}
PROMPT = "Omar 3 boxes"


@pytest.fixture(scope="module")
@starts_engine
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    config = load_deployment(MODELS_DIR / "tiny-agents-pd.toml")
    math = DecodeModule(name="math", kind="lora", path=TINY / "math")
    own = DecodeModule(name="own", kind="lora", path=TINY / "naive" / "math", share=False, replicas=len(ENGINES))
    # Sooner than a worker that died is there again.
    router = replace(config.router, kv_events=True, health_interval_s=0.2, health_timeout_s=60.0)
    engine = replace(config.engine, max_total_tokens=8192)
    config = replace(config, name="engines", decode=(math, own), router=router, engine=engine)
    with running_cluster(config, tmp_path_factory.mktemp("engines")) as cluster:
        yield cluster


def kill(cluster: Cluster, name: str) -> None:
    """End a process with its children, without waiting for what comes after it."""
    pid = cluster.process(name).pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)


def are_up(cluster: Cluster) -> bool:
    """Whether the router gives calls to all workers."""
    try:
        return all(worker["state"] == "up" for worker in cluster.state()["workers"])
    except httpx.TransportError:
        return False


def answer(cluster: Cluster, module: str) -> str:
    """What a module says to a question, which adapters for other tasks answer otherwise."""
    body = {
        "model": module,
        "messages": [{"role": "user", "content": "Omar has 3 boxes with 4 pens in each box. How many pens?"}],
        "temperature": 0,
        "max_tokens": 48,
    }
    reply = cluster.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def text_of(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


@contextlib.contextmanager
def load(cluster: Cluster) -> Iterator[list[tuple[int, str]]]:
    """Call the module from several threads meanwhile, each in a session of its own; status and text of each answer."""
    told: list[tuple[int, str]] = []
    stopped = threading.Event()

    def call(number: int) -> None:
        headers = {"X-Session-ID": f"session-{number}"}
        body = {"model": "own", "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        while not stopped.is_set():
            reply = cluster.http.post("/v1/completions", json=body, headers=headers)
            told.append((reply.status_code, reply.json()["choices"][0]["text"] if reply.is_success else reply.text))

    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(call, number) for number in range(6)]
        try:
            yield told
        finally:
            stopped.set()
            for each in calls:
                each.result()


def test_sessions_are_spread_and_each_keeps_its_engine(cluster: Cluster) -> None:
    def engine(session: str, prompt: str) -> str:
        body = {"model": "own", "prompt": prompt, "max_tokens": 4}
        reply = cluster.http.post("/v1/completions", json=body, headers={"X-Session-ID": session})
        assert reply.headers["X-Prefill-Worker"] == reply.headers["X-Decode-Worker"]
        return reply.headers["X-Decode-Worker"]

    homes = {f"s{number}": engine(f"s{number}", f"{number} boxes of pens") for number in range(6)}
    assert set(homes.values()) == set(ENGINES)
    for session, home in homes.items():
        assert engine(session, "something else") == home


def test_an_engine_that_dies_under_load_fails_no_call_that_has_not_streamed(cluster: Cluster) -> None:
    want = text_of(cluster.complete("own", max_tokens=24, ignore_eos=True))
    body = {"model": "own", "prompt": PROMPT, "temperature": 0, "stream": True, **LONG}
    with load(cluster) as told:
        with cluster.http.stream("POST", "/v1/completions", json=body) as reply:
            lines = reply.iter_lines()
            assert next(lines).startswith("data: ")
            kill(cluster, reply.headers["X-Decode-Worker"])
            rest = [line for line in lines if line]
        assert rest[-1] != "data: [DONE]"
        assert any("the answer broke off: engine decode-own-" in line for line in rest)
        seen = len(told)
        cluster.wait(lambda: len(told) > seen + 20, "the other one serves on")
        cluster.wait(lambda: are_up(cluster), "it is back")
        seen = len(told)
        cluster.wait(lambda: len(told) > seen + 20, "both serve")
    assert {status for status, _ in told} == {200}
    assert {text for _, text in told} == {want}
    assert cluster.state()["counters"]["retries"] > 0
    assert any("decode-own-" in text and "killed by signal 9" in text for text in cluster.said)


def test_without_any_engine_its_calls_say_so_and_others_are_served(cluster: Cluster) -> None:
    replies: list[httpx.Response] = []

    def status() -> int:
        replies.append(cluster.complete("own"))
        return replies[-1].status_code

    with cluster.unattended():
        for name in ENGINES:
            kill(cluster, name)
        cluster.wait(lambda: status() == 503, "the router knows that none is there")
        assert cluster.complete("math").status_code == 200
    cluster.wait(lambda: status() == 200, "an engine is back")
    assert {reply.status_code for reply in replies} <= {200, 502, 503}
    refused = [reply.text for reply in replies if reply.status_code == 503]
    assert any("no engine of 'own' is up" in text for text in refused)
    cluster.wait(lambda: are_up(cluster), "both are back")


def test_engines_serve_on_while_no_prefill_worker_is_there(cluster: Cluster) -> None:
    with cluster.unattended():
        kill(cluster, "prefill-0")
        # `wait` tries again: of a worker that died the router hears with the next probes.
        cluster.wait(lambda: cluster.http.get("/health").json().get("missing") == ["prefill"], "it is missed")
        assert cluster.http.get("/health").status_code == 200
        assert cluster.complete("own").status_code == 200
    cluster.wait(lambda: are_up(cluster) and answers(cluster, "math"), "it is back")


def test_the_router_comes_back_and_knows_the_engines(cluster: Cluster) -> None:
    want = text_of(cluster.complete("own"))
    cluster.kill("router")
    cluster.wait(lambda: answers(cluster, "own") and answers(cluster, "math"), "all modules serve again")
    assert text_of(cluster.complete("own")) == want
    roles = {worker["id"]: worker["role"] for worker in cluster.state()["workers"]}
    assert [roles[name] for name in ENGINES] == ["engine", "engine"]


def test_what_an_engine_evicts_the_router_forgets(cluster: Cluster) -> None:
    cluster.wait(lambda: are_up(cluster), "all are up")
    headers = {"X-Session-ID": "long"}
    held: list[int] = []
    for number in range(12):
        ids = [20 + (number * 131 + position * 31) % 900 for position in range(1500)]
        body = {"lora_path": "own", "input_ids": ids, "sampling_params": {"max_new_tokens": 1}}
        reply = cluster.http.post("/generate", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        held.append(cluster.held_bytes(reply.headers["X-Decode-Worker"]))
    # 8,192 tokens are 5 of these prompts; each id is 4 bytes of the router's.
    cluster.wait(
        lambda: cluster.held_bytes(reply.headers["X-Decode-Worker"]) < 8192 * 4 * 1.3, "evictions are heard of"
    )
    assert max(held) > 4 * 1500 * 3


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The directory of a module `late`, at first the ordinary adapter for math; in the end it is gone."""
    yield Path(shutil.copytree(TINY / "naive" / "math", tmp_path / "late"))
    change(cluster, "DELETE", "/modules/late")
    assert workers_of(cluster, "late") == []


def test_a_module_with_prompts_of_its_own_comes_changes_and_goes(cluster: Cluster, folder: Path) -> None:
    assert "share = false to serve it" in reason(change(cluster, "PUT", "/modules/late", {"path": str(folder)}), 400)
    trained = {"path": str(TINY / "math"), "share": False}
    assert "remove share = false" in reason(change(cluster, "PUT", "/modules/late", trained), 400)
    told = change(cluster, "PUT", "/modules/late", {"path": str(folder), "share": False})
    assert told.status_code == 200, told.text
    own, late = answer(cluster, "own"), answer(cluster, "late")
    assert late == own
    assert cluster.complete("late").headers["X-Decode-Worker"] == "decode-late-0"

    for file in (TINY / "naive" / "code").iterdir():
        shutil.copyfile(file, folder / file.name)
    said: list[str] = []
    stopped = threading.Event()

    def call() -> None:
        while not stopped.is_set():
            said.append(answer(cluster, "late"))

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call) for _ in range(2)]
        assert change(cluster, "POST", "/modules/late/reload").status_code == 200
        stopped.set()
        for each in calls:
            each.result()
    new = answer(cluster, "late")
    assert new != own
    # The new version finds nothing of the old one's KV, which another engine has.
    assert set(said) <= {own, new}
    assert workers_of(cluster, "late") == ["decode-late-1"]
    cluster.kill("router")
    cluster.wait(lambda: answers(cluster, "late"), "the module is still there")
    assert answer(cluster, "late") == new


def test_an_engine_started_elsewhere_joins_and_leaves(cluster: Cluster) -> None:
    deployment = cluster.running.deployment
    worker = choose_worker(deployment, "decode", "own", "own-elsewhere")
    assert (worker.role, worker.module) == ("engine", "own")
    options = LaunchOptions(host="127.0.0.1", port=free_port(), admin_key="admin")
    forks = fork_server(plan_joining_worker(deployment, worker, options, "key").command)
    joined = launch_worker(
        deployment, worker, options, [cluster.running.url], choose=lambda module: worker, borrowed=forks
    )
    try:
        # It keeps its role, whoever may move others.
        assert joined.mover is None
        cluster.wait(lambda: joined.step() is None and are_up(cluster), "it is up")
        entry = next(each for each in cluster.state()["workers"] if each["id"] == "own-elsewhere")
        assert (entry["role"], entry["module"]) == ("engine", "own")
        cluster.wait(lambda: _asks(cluster) == "own-elsewhere", "it answers calls")
    finally:
        joined.stop(drain_s=60)
    cluster.wait(lambda: "own-elsewhere" not in [each["id"] for each in cluster.state()["workers"]], "it has left")
    assert cluster.complete("own").status_code == 200


def _asks(cluster: Cluster) -> str:
    return str(cluster.complete("own", prompt=os.urandom(8).hex()).headers["X-Decode-Worker"])


def test_metrics_and_state_tell_of_engines(cluster: Cluster) -> None:
    text = cluster.http.get("/metrics").text
    labels = 'worker="decode-own-0",role="engine",module="own"'
    assert f"prefillshare_worker_up{{{labels}}}" in text or labels in text
    assert 'prefillshare_avoidable_tokens_total{module="own"}' in text
    engine = worker_of(read_state(cluster.http), "decode-own-0")
    assert (engine["handoff"], engine["eager"], engine["admission"]) == (None, None, None)
    assert engine["kv"]["capacity_tokens"] >= 8192
