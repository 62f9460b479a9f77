"""Real engines for tests that need a particular start, and what they say on the wire."""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import running_deployment
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import plan_engine
from prefillshare.serving.run.plain import plain_command, running_plain_engines
from tests.support.forks import fork_server
from tests.support.waiting import wait_until

MODELS_DIR = Path(__file__).parents[2] / "models"
TINY_AGENTS = MODELS_DIR / "tiny-agents.toml"
START_TIMEOUT_S = 300.0
WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What ``/generate`` returned for one prompt."""

    tokens: list[int]
    """Generated token ids."""
    first_logprob: float | None
    """Log-probability of y_1."""
    cached_tokens: int
    """Prompt tokens that were not computed again."""
    report: Mapping[str, Any]
    """What the engine says of shared prefill."""


class Endpoint:
    """A running engine, asked by token ids."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=300)
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
        self.openai.close()

    def generate(self, prompt: Sequence[int], module: str | None, num_tokens: int, **fields: object) -> Answer:
        """Greedy continuation by a decode module, or by the prefill module itself."""
        body = {
            "input_ids": list(prompt),
            "lora_path": module,
            "return_logprob": True,
            "sampling_params": {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True},
            **fields,
        }
        reply = self.http.post("/generate", json=body)
        assert reply.status_code == 200, reply.text
        return _answer(reply.json())

    def generate_batch(self, asked: Sequence[tuple[Sequence[int], str | None]], num_tokens: int) -> list[Answer]:
        """Greedy continuations to (prompt, module) pairs, asked in one request."""
        body = {
            "input_ids": [list(prompt) for prompt, _ in asked],
            "lora_path": [module for _, module in asked],
            "return_logprob": True,
            "sampling_params": {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True},
        }
        reply = self.http.post("/generate", json=body)
        assert reply.status_code == 200, reply.text
        return [_answer(data) for data in reply.json()]

    def generate_all(
        self, asked: Sequence[tuple[Sequence[int], str | None]], num_tokens: int, concurrency: int
    ) -> list[Answer]:
        """The answers to (prompt, module) pairs, ``concurrency`` of them in flight at a time."""
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda pair: self.generate(pair[0], pair[1], num_tokens), asked))

    def chat(self, model: str, content: str, **fields: object) -> httpx.Response:
        """One user turn to ``/v1/chat/completions``."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def flush(self) -> None:
        """Empty the prefix cache."""
        flush(self.http)


def flush(http: httpx.Client) -> None:
    """Empty the prefix caches behind an address.

    SGLang refuses while a scheduler is not idle, which it is a moment after the last answer: asked until it does it.
    """
    did_not = f"{http.base_url} did not become idle"
    wait_until(lambda: http.post("/flush_cache").status_code == 200, did_not, within_s=WAIT_S)


def engine_state(http: httpx.Client) -> dict[str, Any]:
    """The state of an engine, or of one worker of a pair, to which its scheduler has just answered.

    Of a scheduler that is too busy to answer in time nothing is told, or what it said last.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        reply = http.get("/deployment/state")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        if found["workers"][0]["running"] is not None:
            return found
        assert time.monotonic() < deadline, f"the scheduler of {http.base_url} told nothing for {WAIT_S:.0f} s"


def call_and_leave(
    url: str, body: Mapping[str, Any], has_come: Callable[[], bool], headers: Mapping[str, str] | None = None
) -> None:
    """Send a call to ``/generate``, and hang up without a look at the answer as soon as the call has come."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    with contextlib.closing(HTTPConnection(urlsplit(url).netloc)) as connection:
        connection.request("POST", "/generate", json.dumps(body), sent)
        wait_until(has_come, "the call has not come", within_s=WAIT_S, pause_s=0.02)


def _answer(reply: Mapping[str, Any]) -> Answer:
    logprobs = reply["meta_info"].get("output_token_logprobs") or [[None]]
    (report,) = reply["meta_info"].get("prefillshare", [{}])
    return Answer(reply["output_ids"], logprobs[0][0], reply["meta_info"]["cached_tokens"], report)


def with_prefill_key(file: Path, line: str, folder: Path) -> Path:
    """A deployment file of `models/` with one more line in its [prefill] table, written below `folder`."""
    return with_key(file, "prefill", line, folder)


def with_key(file: Path, table: str, line: str, folder: Path) -> Path:
    """A deployment file of `models/` with one more line in a table of it, written below `folder`."""
    text = file.read_text(encoding="utf-8").replace('path = "tiny/', f'path = "{MODELS_DIR}/tiny/')
    changed = folder / file.name
    changed.write_text(text.replace(f"[{table}]\n", f"[{table}]\n{line}\n"), encoding="utf-8")
    return changed


@contextlib.contextmanager
def shared_engine(
    file: Path = TINY_AGENTS, *extra_args: str, environment: Mapping[str, str] | None = None
) -> Iterator[Endpoint]:
    """The deployment as ``prefillshare launch`` serves it."""
    switches = environment or {}
    with (
        _environment(switches),
        running_deployment(file, extra_args=extra_args, fork_server=partial(fork_server, switches=switches)) as running,
        contextlib.closing(Endpoint(running.url)) as endpoint,
    ):
        yield endpoint


@contextlib.contextmanager
def plain_engine(file: Path = TINY_AGENTS, *extra_args: str) -> Iterator[Endpoint]:
    """The same models on SGLang as released: its own radix cache, none of the engine patches."""
    port, deployment = free_port(), resolve(load_deployment(file))
    command = plain_command(plan_engine(deployment, LaunchOptions(port=port, extra_args=extra_args)).command)
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryDirectory() as logs,
        running_plain_engines({"plain": (command, url)}, Path(logs), fork_server(command)),
        contextlib.closing(Endpoint(url)) as endpoint,
    ):
        yield endpoint


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
