"""Real prefill and decode workers without a router: the two legs of a call are sent by hand."""

import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from prefillshare.config import load_deployment
from prefillshare.contract import CONTINUATION_PATH, EAGER_HEADER, MODULE_HEADER, NO_BOOTSTRAP_HOST
from prefillshare.modules.deployment import resolve
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import PlannedWorker, plan_workers
from prefillshare.serving.run.process import EngineProcess, start_engine
from prefillshare.serving.run.readiness import wait_until_listening
from prefillshare.serving.run.store_hold import StoreHold
from tests.support.engines import MODELS_DIR, START_TIMEOUT_S, engine_state, flush
from tests.support.forks import fork_server

TINY = MODELS_DIR / "tiny"
BASE_NAME = "tiny-base"
LEG_TIMEOUT_S = 300.0

_rooms = itertools.count(time.time_ns() % (1 << 40) << 20, 128)
"""As far apart as a call has samples at most: their rooms are counted up from the call's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the decode worker returned for one prompt, and what it took."""

    tokens: list[int]
    """Generated token ids."""
    first_logprob: float | None
    """Log-probability of y_1."""
    cached_tokens: int
    """Prompt tokens that were not computed again."""
    handoff_tokens: int
    """Prompt tokens whose KV was transferred."""
    meta: dict[str, Any]
    """All of ``meta_info``."""


class Pair:
    """One prefill and one decode worker, asked as a router asks them."""

    def __init__(self, prefill: PlannedWorker, decode: PlannedWorker) -> None:
        self.module = decode.worker.module
        assert self.module is not None
        assert prefill.place.bootstrap_port is not None
        self._bootstrap = {"bootstrap_host": "127.0.0.1", "bootstrap_port": prefill.place.bootstrap_port}
        self._is_lora = bool(decode.worker.adapters)
        self.prefill = httpx.Client(base_url=prefill.place.url, timeout=LEG_TIMEOUT_S)
        self.decode = httpx.Client(base_url=decode.place.url, timeout=LEG_TIMEOUT_S)
        self._legs = ThreadPoolExecutor(64)

    def close(self) -> None:
        """Close the connections."""
        self._legs.shutdown()
        self.prefill.close()
        self.decode.close()

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[httpx.Response, httpx.Response]:
        """Both legs of a call: the decode worker's reply and the prefill worker's."""
        replies = self.submit(path, body)
        # Without the one leg the other waits for its limit, and would hide why.
        for failed in wait(replies, return_when=FIRST_EXCEPTION).done:
            failed.result()
        return replies[0].result(), replies[1].result()

    def submit(self, path: str, body: Mapping[str, Any]) -> tuple[Future[httpx.Response], Future[httpx.Response]]:
        """The same, not waited for."""
        first_leg, second_leg = self._bodies(path, body)
        prefill_reply = self._legs.submit(self.prefill.post, path, json=first_leg)
        return self._legs.submit(self.decode.post, path, json=second_leg), prefill_reply

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The pieces of a streamed reply."""
        first_leg, second_leg = self._bodies(path, {**body, "stream": True})
        prefill_reply: Future[httpx.Response] = self._legs.submit(self.prefill.post, path, json=first_leg)
        with self.decode.stream("POST", path, json=second_leg) as reply:
            assert reply.status_code == 200, reply.read()
            for line in reply.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))
        prefill_reply.result()

    def _bodies(self, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        common = {**body, **self._bootstrap, "bootstrap_room": next(_rooms)}
        if path == "/generate":
            return common, {**common, **({"lora_path": self.module} if self._is_lora else {})}
        return {**common, "model": BASE_NAME, "stream": False}, {**common, "model": self.module}

    def generate(self, prompt: Sequence[int], num_tokens: int, **fields: Any) -> Answer:
        """Greedy continuation by the decode module; ``sampling_params`` are added to the greedy ones."""
        params = {
            "temperature": 0,
            "max_new_tokens": num_tokens,
            "ignore_eos": True,
            **fields.pop("sampling_params", {}),
        }
        body = {"input_ids": list(prompt), "return_logprob": True, "sampling_params": params, **fields}
        reply, _ = self.post("/generate", body)
        assert reply.status_code == 200, reply.text
        return as_answer(reply.json())

    def generate_all(self, prompts: Sequence[Sequence[int]], num_tokens: int, concurrency: int) -> list[Answer]:
        """The answers to the prompts, ``concurrency`` of them in flight at a time."""
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda prompt: self.generate(prompt, num_tokens), prompts))

    def chat(self, content: str, **fields: Any) -> tuple[httpx.Response, httpx.Response]:
        """One user turn to ``/v1/chat/completions``: the decode worker's reply and the prefill worker's."""
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}
        return self.post("/v1/chat/completions", body)

    def continuation(self, rid: str) -> httpx.Response:
        """What the decode worker says that comes after the answer to the call ``rid``."""
        return self.decode.get(CONTINUATION_PATH, params={"rid": rid})

    def compute_ahead(self, input_ids: Sequence[int], **fields: Any) -> httpx.Response:
        """Send the prefill worker a job as a router does; the reply comes when it is over."""
        body = {
            "input_ids": list(input_ids),
            "sampling_params": {"max_new_tokens": 0},
            "bootstrap_host": NO_BOOTSTRAP_HOST,
            "bootstrap_room": time.time_ns(),
            **fields,
        }
        headers = {EAGER_HEADER: "1", MODULE_HEADER: str(self.module)}
        return self.prefill.post("/generate", json=body, headers=headers)

    def prefill_worker(self) -> dict[str, Any]:
        """The prefill worker's entry in its state."""
        found: dict[str, Any] = engine_state(self.prefill)["workers"][0]
        return found

    def flush(self) -> None:
        """Empty the prefix caches of both workers."""
        flush(self.prefill)
        flush(self.decode)


def as_answer(reply: Mapping[str, Any]) -> Answer:
    """The answer in a reply of ``/generate``."""
    meta = reply["meta_info"]
    logprobs = meta.get("output_token_logprobs") or [[None]]
    moved = meta["prefillshare"][0]["handoff_tokens"]
    return Answer(reply["output_ids"], logprobs[0][0], meta["cached_tokens"], moved, meta)


@dataclass(slots=True)
class Workers:
    """The started workers of a deployment."""

    pairs: dict[str, Pair]
    """One per decode module, all with the first prefill worker."""
    workers: dict[str, PlannedWorker]
    """By name, such as prefill-0 and decode-math-0."""
    processes: dict[str, EngineProcess]
    """By the same names."""

    def log(self, name: str) -> str:
        """What a worker said so far."""
        return self.processes[name].log_path.read_text(errors="replace")


def deployment_file(folder: Path, *modules: str, page_size: int = 1, store: str | None = None) -> Path:
    """A deployment of the tiny family: ``math`` with full weights, the others as LoRA modules.

    ``store``: memory of a store such as "64 MiB"; then the shortest answer is worth being computed ahead, too.
    """
    lines = [
        'name = "pd"',
        'topology = "disaggregated"',
        "[prefill]",
        f'name = "{BASE_NAME}"',
        f'path = "{TINY / "base"}"',
        *(["eager_min_tokens = 1"] if store else []),
    ]
    for module in modules:
        kind = 'kind = "full"\nmerge = true' if module == "math" else 'kind = "lora"'
        lines += ["[[decode]]", f'name = "{module}"', kind, f'path = "{TINY / module}"']
    lines += ["[engine]", 'dtype = "float32"', f"page_size = {page_size}"]
    lines += ["[store]", f'memory = "{store}"'] if store else []
    file = folder / "pd.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


@contextlib.contextmanager
def pd_workers(
    file: Path,
    *extra_args: str,
    environment: Mapping[str, Mapping[str, str]] | None = None,
    without: Sequence[str] = (),
) -> Iterator[Workers]:
    """Workers of the deployment in ``file``; ``environment`` is added to the workers whose names are its keys.

    ``without`` are arguments that a launched worker has and these must not have.
    """
    options = LaunchOptions(extra_args=extra_args, start_timeout_s=START_TIMEOUT_S)
    planned = [
        _adding((environment or {}).get(planned.worker.name, {}), planned, without)
        for planned in plan_workers(resolve(load_deployment(file)), options)
    ]
    with contextlib.ExitStack() as stack:
        stack.callback(StoreHold(planned).end)  # last: a store that a worker still uses stays
        processes = {each.worker.name: _start(stack, each, file.parent) for each in planned}
        started = [(processes[each.worker.name], each.place.url) for each in planned]
        wait_until_listening(started, None, START_TIMEOUT_S, lambda stage: None)
        prefill, *decoders = planned
        pairs = {str(decode.worker.module): Pair(prefill, decode) for decode in decoders}
        for pair in pairs.values():
            stack.callback(pair.close)
        yield Workers(pairs, {each.worker.name: each for each in planned}, processes)


def _start(stack: contextlib.ExitStack, planned: PlannedWorker, folder: Path) -> EngineProcess:
    log_path = folder / f"{planned.worker.name}.log"
    process = start_engine(planned.command, log_path, fork_server(planned.command))
    stack.callback(process.kill)
    return process


def _adding(variables: Mapping[str, str], planned: PlannedWorker, without: Sequence[str] = ()) -> PlannedWorker:
    environment = {**planned.command.environment, "OMP_NUM_THREADS": "1", **variables}
    argv = tuple(word for word in planned.command.argv if word not in without)
    command = dataclasses.replace(planned.command, argv=argv, environment=environment)
    return dataclasses.replace(planned, command=command)
