"""One whole disaggregated deployment, as `prefillshare launch` serves it, for the tests of this folder; those of faults
have one with a store."""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import openai
import pytest

from prefillshare.config import Deployment, load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import RunningDeployment, plan
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.cluster import RunningCluster, launch_cluster
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.progress import read_log
from prefillshare.serving.run.record import ProcessRecord
from tests.support.engines import MODELS_DIR, START_TIMEOUT_S
from tests.support.forks import fork_server
from tests.support.marks import starts_engine
from tests.support.otlp import Receiver, otlp_receiver
from tests.support.proxies import PROXIES
from tests.support.waiting import wait_until

MODULES = ("math", "tool", "code")
STEP_S = 0.1
WAIT_S = START_TIMEOUT_S
"""What is waited for may take an engine's start."""
CALL_S = WAIT_S / 2
"""A call that is not answered within this is lost; where one waits for an answer, there is time for a second."""
KV_TOKENS = 12288
"""Three times the longest context, so that a test can fill it."""
ONE_WAY = {"UCX_TLS": "tcp", "SGLANG_DISAGGREGATION_QUEUE_SIZE": "1"}
"""All KV moves by one thread, and over TCP, where both sides must look after a transfer: what stops one stops all."""
NUM_LINES = 12
ROUTINE = re.compile(r'"(GET|POST) /|(Prefill|Decode) batch,')
"""Lines of a log that say only that somebody was served."""


@dataclass(slots=True, kw_only=True)
class Cluster:
    """A running deployment that is looked after, as the command does it."""

    running: RunningCluster
    http: httpx.Client
    openai: openai.OpenAI
    said: list[str]
    """What the supervisor told people."""
    forks: ForkServer | None
    """What its engines are forked from; the session's, which others may share."""
    stopped: threading.Event = field(default_factory=threading.Event)
    looking: threading.Lock = field(default_factory=threading.Lock)

    def look_after(self) -> None:
        """Restart what dies until `stopped`."""
        while not self.stopped.wait(STEP_S):
            with self.looking:
                self.running.step()

    @contextlib.contextmanager
    def unattended(self) -> Iterator[None]:
        """Restart nothing meanwhile: what is killed stays away, however slow the test is."""
        with self.looking:
            yield

    def process(self, name: str) -> ProcessRecord:
        """One process, as `prefillshare ps` shows it."""
        return next(process for process in self.running.processes() if process.name == name)

    def kill(self, name: str) -> None:
        """End a process with its children, and wait until it is started again."""
        restarts, pid = self.process(name).num_restarts, self.process(name).pid
        assert pid is not None
        os.killpg(pid, signal.SIGKILL)
        self.wait(lambda: self.process(name).num_restarts > restarts, f"{name} is started again")

    def ask_worker(self, name: str, method: str, path: str) -> httpx.Response:
        """Ask one worker itself, past the router."""
        planned = next(planned for planned in self.running.workers if planned.worker.name == name)
        key = {"Authorization": f"Bearer {planned.command.api_key}"}
        return httpx.request(method, f"{planned.place.url}{path}", headers=key, timeout=CALL_S)

    def state(self) -> dict:
        """What the router says of itself."""
        return self.http.get("/router/state").json()

    def held_bytes(self, name: str) -> int:
        """How much the router thinks a worker holds."""
        return next(worker["held_bytes"] for worker in self.state()["workers"] if worker["id"] == name)

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Wait until it is so; an AssertionError that says what did not come to pass."""
        wait_until(until, what, within_s=WAIT_S, pause_s=0.2)

    def complete(self, module: str, prompt: str = "Omar 3 boxes", **fields: object) -> httpx.Response:
        """One short completion."""
        body = {"model": module, "prompt": prompt, "max_tokens": 8, "temperature": 0, **fields}
        return self.http.post("/v1/completions", json=body)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of every process's log with a failed test: it fails where nobody can look at the machine."""
    report = yield
    cluster = next((value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Cluster)), None)
    if report.failed and cluster is not None:
        for log in sorted(cluster.running.log_path.parent.iterdir()):
            lines = [line for line in read_log(log).splitlines() if not ROUTINE.search(line)]
            report.sections.append((f"end of {log.name}", "\n".join(line[:200] for line in lines[-NUM_LINES:])))
    return report


@pytest.fixture(scope="package")
def traces() -> Iterator[Receiver]:
    """Where the deployment sends its traces."""
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
@starts_engine
def cluster(traces: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """1 prefill worker, 3 decode workers with full weights, 1 router; the workers tell what they evict."""
    with running_cluster(configured(traces), tmp_path_factory.mktemp("logs")) as cluster:
        yield cluster


def configured(traces: Receiver) -> Deployment:
    """What the deployment of this folder is launched with."""
    config = load_deployment(MODELS_DIR / "tiny-agents-pd.toml")
    return replace(
        config,
        # A worker that a busy machine holds up is not taken for dead.
        router=replace(config.router, kv_events=True, health_timeout_s=60.0),
        engine=replace(config.engine, max_total_tokens=KV_TOKENS),
        otlp_endpoint=traces.endpoint,
    )


@contextlib.contextmanager
def running_cluster(config: Deployment, folder: Path) -> Iterator[Cluster]:
    """Launch a deployment, and look after it; its processes' logs are below `folder`."""
    deployment = resolve(config)
    said: list[str] = []
    log_path = folder / "cluster.log"
    options = LaunchOptions(port=free_port(), admin_key="admin", log_path=log_path)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ONE_WAY, **PROXIES}.items():
            patch.setenv(name, value)
        # Started here, it has these variables, and so have all engines that are forked from it.
        forks = fork_server(next(iter(plan(deployment, options).values())), switches={**ONE_WAY, **PROXIES})
        running = launch_cluster(deployment, options, on_event=said.append, borrowed=forks)
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=CALL_S)
    http = httpx.Client(base_url=running.url, timeout=CALL_S)
    cluster = Cluster(running=running, http=http, openai=client, said=said, forks=forks)
    keeper = threading.Thread(target=cluster.look_after)
    keeper.start()
    try:
        yield cluster
    finally:
        cluster.stopped.set()
        keeper.join()
        client.close()
        cluster.http.close()
        running.stop(drain_s=0)


@pytest.fixture(params=["disaggregated", "colocated"])
def url(request: pytest.FixtureRequest, cluster: Cluster, random_server: RunningDeployment) -> str:
    """Each topology in turn."""
    return cluster.running.url if request.param == "disaggregated" else random_server.url
