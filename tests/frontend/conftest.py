"""The tiny family in both topologies, behind an API key; one of them runs at a time.

Without answers that are computed ahead: what a call hits is then what others had prefilled when they were asked.
"""

import gc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import sglang as sgl

from prefillshare import frontend
from prefillshare.serving.launch import running_deployment
from tests.support.engines import MODELS_DIR, flush, with_prefill_key
from tests.support.forks import fork_server
from tests.support.marks import starts_engine

API_KEY = "open-sesame"
FILES = {"colocated": "tiny-agents.toml", "disaggregated": "tiny-agents-pd.toml"}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running deployment."""

    topology: str
    url: str
    http: httpx.Client

    def plain(self, module: str, **options: object) -> sgl.RuntimeEndpoint:
        """SGLang's own backend at the address of a module."""
        return sgl.RuntimeEndpoint(f"{self.url}/modules/{module}", api_key=API_KEY, **options)

    def endpoint(self, module: str | None = None) -> frontend.Endpoint:
        """Our backend."""
        return frontend.Endpoint(self.url, module=module, api_key=API_KEY)

    def chat(self, model: str, messages: list[dict], max_tokens: int) -> dict:
        """A greedy OpenAI call."""
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        reply = self.http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def flush(self) -> None:
        """Empty the caches."""
        flush(self.http)

    def generate(self, **body: object) -> httpx.Response:
        """A call in SGLang's own form."""
        return self.http.post("/generate", json=body)


@pytest.fixture(scope="package", params=FILES)
@starts_engine
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp(request.param)
    file = with_prefill_key(MODELS_DIR / FILES[request.param], "eager_answers = false", folder)
    with (
        running_deployment(file, api_key=API_KEY, fork_server=fork_server) as running,
        httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=300) as http,
    ):
        yield Deployment(request.param, running.url, http)


@pytest.fixture
def endpoint(deployment: Deployment) -> frontend.Endpoint:
    """The deployment with empty caches, no module named."""
    deployment.flush()
    return deployment.endpoint()


@pytest.fixture
def left_open() -> Iterator[None]:
    """SGLang's frontend does not close connections of streams and refusals: they end here, without a warning each."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
