"""Real deployments with tenants for tests: one engine, or a router before workers, with a store, open pages and answers
computed ahead, since each of them could tell what others asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from prefillshare.serving.launch import running_deployment
from tests.support.classifiers import write_classifier
from tests.support.engines import MODELS_DIR
from tests.support.forks import fork_server
from tests.support.monitoring import read_state
from tests.support.tenants import OPERATOR, bearer, write_tenants
from tests.support.waiting import wait_until

KV_TOKENS = 1024
PAGE = 16
ANSWER_TOKENS = 24
TENANTS: dict[str, Mapping[str, Any]] = {
    "acme": {},
    "other": {},
    "narrow": {"modules": ["math"], "concurrent": 1},
    "friend": {"shared": True},
    "slow": {"calls_per_s": 0.01},
    "poor": {"tokens_per_min": 30},
}
HEAD = """\
name = "tenants"
topology = "{topology}"
[prefill]
name = "tiny-base"
path = "{models}/tiny/base"
eager_min_tokens = 1
{modules}
[engine]
dtype = "float32"
page_size = {page}
max_total_tokens = {kv_tokens}
memory_wait_s = 0
[store]
memory = "64 MiB"
[tenants]
file = "tenants.toml"
[aliases]
latest = "math"
seen = {{ default = "math", classifier = "head" }}
"""
OF_BOTH = """\
either = { math = 0.5, code = 0.5 }
auto = { default = "latest", rules = [{ module = "code", header = "X-Task" }] }
"""
"""Aliases that mean a module which not every tenant has."""
MODULE = """\
[[decode]]
name = "{name}"
kind = "lora"
path = "{models}/tiny/{name}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running deployment, and the keys of its tenants."""

    url: str
    http: httpx.Client
    keys: Mapping[str, str]
    file: Path
    log: Path
    is_colocated: bool

    def post(self, who: str, path: str, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers=bearer(self.keys[who]) | headers)

    def get(self, who: str, path: str) -> httpx.Response:
        return self.http.get(path, headers=bearer(self.keys[who]))

    def generate(self, who: str, prompt: Sequence[int], num_tokens: int = 1, **fields: Any) -> Mapping[str, Any]:
        """What `/generate` answers to a tenant; the tokens, and how many of the prompt's were cached."""
        params = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
        body = {"input_ids": list(prompt), "lora_path": "math", "sampling_params": params, **fields}
        reply = self.post(who, "/generate", body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def flush(self) -> None:
        """Empty the caches. SGLang refuses while it is not idle, which it is a moment after the last answer."""
        wait_until(lambda: self.post("operator", "/flush_cache", {}).status_code == 200)

    def state(self) -> Mapping[str, Any]:
        return self.get("operator", "/deployment/state").json()

    def state_at_rest(self) -> Mapping[str, Any]:
        """The same when every call is counted: a router answers before the prefill leg has reported."""
        return read_state(self.http, bearer(self.keys["operator"]), has_router=not self.is_colocated)

    def prefill(self) -> Mapping[str, Any]:
        """The worker that computes prompts, at rest."""
        return next(worker for worker in self.state_at_rest()["workers"] if worker["role"] in ("engine", "prefill"))

    def computed(self) -> int:
        """Prompt tokens that it has computed for calls."""
        worker = self.prefill()
        return worker["prompt_tokens"] - worker["cached_tokens"]

    def tenant(self, who: str) -> Mapping[str, Any]:
        return next(each for each in self.state_at_rest()["tenants"]["items"] if each["name"] == who)


@contextmanager
def serving_tenants(topology: str, folder: Path) -> Iterator[Served]:
    """Two modules in one engine, or one behind a router."""
    names = ("math", "code") if topology == "colocated" else ("math",)
    modules = "".join(MODULE.format(name=name, models=MODELS_DIR) for name in names)
    text = HEAD.format(topology=topology, models=MODELS_DIR, modules=modules, page=PAGE, kv_tokens=KV_TOKENS)
    file = folder / "deployment.toml"
    write_classifier(folder / "head", ("math", "latest"))
    file.write_text(text + OF_BOTH if topology == "colocated" else text.replace("memory_wait_s = 0\n", ""))
    keys = write_tenants(folder / "tenants.toml", **TENANTS) | {"operator": OPERATOR}
    log = folder / "served.log"
    with (
        running_deployment(file, api_key=OPERATOR, log_path=log, fork_server=partial(fork_server)) as running,
        httpx.Client(base_url=running.url, timeout=300) as http,
    ):
        yield Served(
            url=running.url,
            http=http,
            keys=keys,
            file=folder / "tenants.toml",
            log=log,
            is_colocated=topology == "colocated",
        )


def rest(served: Served) -> None:
    """Wait until nothing is computed ahead any more."""
    wait_until(lambda: served.prefill()["eager"]["waiting"] == 0 and not jobs(served))


def jobs(served: Served) -> int:
    return served.state().get("eager_jobs", {}).get("waiting", 0)


def prompt_of(start: int, length: int = 75) -> list[int]:
    """Tokens that no other prompt begins with; the last page is an open one."""
    return [start + 20, *range(30, 30 + length - 1)]
