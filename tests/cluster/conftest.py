"""One whole disaggregated deployment, as `prefillshare launch` serves it, for all tests of this folder."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import httpx
import openai
import pytest

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.cluster import RunningCluster, launch_cluster
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.ports import free_port
from prefillshare.serving.record import ProcessRecord
from tests.support.engines import MODELS_DIR
from tests.support.otlp import Receiver, otlp_receiver

MODULES = ("math", "tool", "code")
STEP_S = 0.1


@dataclass(slots=True, kw_only=True)
class Cluster:
    """A running deployment that is looked after, as the command does it."""

    running: RunningCluster
    http: httpx.Client
    openai: openai.OpenAI
    said: list[str]
    """What the supervisor told people."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def look_after(self) -> None:
        """Restart what dies until `stopped`."""
        while not self.stopped.wait(STEP_S):
            self.running.step()

    def process(self, name: str) -> ProcessRecord:
        """One process, as `prefillshare ps` shows it."""
        return next(one for one in self.running.processes() if one.name == name)

    def state(self) -> dict:
        """What the router says of itself."""
        return self.http.get("/router/state").json()

    def complete(self, module: str, prompt: str = "Omar 3 boxes", **fields: object) -> httpx.Response:
        """One short completion."""
        body = {"model": module, "prompt": prompt, "max_tokens": 8, "temperature": 0, **fields}
        return self.http.post("/v1/completions", json=body)


@pytest.fixture(scope="package")
def traces() -> Iterator[Receiver]:
    """Where the deployment sends its traces."""
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
def cluster(traces: Receiver) -> Iterator[Cluster]:
    """1 prefill worker, 3 decode workers with full weights, 1 router."""
    config = replace(load_deployment(MODELS_DIR / "tiny-agents-pd.toml"), otlp_endpoint=traces.endpoint)
    deployment = resolve(config)
    said: list[str] = []
    options = LaunchOptions(port=free_port(), admin_key="admin")
    running = launch_cluster(deployment, options, on_event=said.append)
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=60)
    cluster = Cluster(running=running, http=httpx.Client(base_url=running.url, timeout=60), openai=client, said=said)
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
