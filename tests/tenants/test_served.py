"""Tenants of real deployments, one engine and a router before workers (I7): nobody can find out what others asked.

Not by the clock, which tells little on a busy machine, but by what it would measure: how many tokens of a prompt were
cached, as the answer says, and how many a worker computed. With a store, open pages and answers computed ahead, since
each of them could tell.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from prefillshare.serving.launch import running_deployment
from tests.support.classifiers import write_classifier
from tests.support.engines import MODELS_DIR
from tests.support.forks import fork_server
from tests.support.marks import starts_engine
from tests.support.tenants import OPERATOR, bearer, write_tenants

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
also-math = "math"
[aliases.auto]
default = "math"
classifier = "head"
"""
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

    def state(self) -> Mapping[str, Any]:
        return self.get("operator", "/deployment/state").json()

    def prefill(self) -> Mapping[str, Any]:
        """The worker that computes prompts."""
        return next(worker for worker in self.state()["workers"] if worker["role"] in ("engine", "prefill"))

    def computed(self) -> int:
        """Prompt tokens that it has computed for calls."""
        worker = self.prefill()
        return worker["prompt_tokens"] - worker["cached_tokens"]

    def tenant(self, who: str) -> Mapping[str, Any]:
        return next(each for each in self.state()["tenants"]["items"] if each["name"] == who)


@pytest.fixture(scope="module", params=["colocated", "disaggregated"])
@starts_engine
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two modules in one engine, or one behind a router."""
    folder = tmp_path_factory.mktemp("tenants")
    names = ("math", "code") if request.param == "colocated" else ("math",)
    modules = "".join(MODULE.format(name=name, models=MODELS_DIR) for name in names)
    text = HEAD.format(topology=request.param, models=MODELS_DIR, modules=modules, page=PAGE, kv_tokens=KV_TOKENS)
    file = folder / "deployment.toml"
    write_classifier(folder / "head", ("math", "also-math"))
    file.write_text(text if request.param == "colocated" else text.replace("memory_wait_s = 0\n", ""))
    keys = write_tenants(folder / "tenants.toml", **TENANTS) | {"operator": OPERATOR}
    log = folder / "served.log"
    with (
        running_deployment(file, api_key=OPERATOR, log_path=log, fork_server=partial(fork_server)) as running,
        httpx.Client(base_url=running.url, timeout=120) as http,
    ):
        yield Served(url=running.url, http=http, keys=keys, file=folder / "tenants.toml", log=log)


def wait_until(condition: Any) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def rest(served: Served) -> None:
    """Wait until nothing is computed ahead any more."""
    wait_until(lambda: served.prefill()["eager"]["waiting"] == 0 and not jobs(served))


def jobs(served: Served) -> int:
    return served.state().get("eager_jobs", {}).get("waiting", 0)


def prompt_of(start: int, length: int = 75) -> list[int]:
    """Tokens that no other prompt begins with; the last page is an open one."""
    return [start + 20, *range(30, 30 + length - 1)]


def test_a_prefix_that_another_tenant_asked_costs_what_an_unknown_one_costs(served: Served) -> None:
    known, unknown = prompt_of(1), prompt_of(2)
    first = served.generate("acme", known, ANSWER_TOKENS)
    rest(served)
    assert served.generate("acme", known)["meta_info"]["cached_tokens"] > 0
    told, answers = [], []
    for prompt in (known, unknown):
        before = served.computed()
        answer = served.generate("other", prompt, ANSWER_TOKENS)
        told.append((answer["meta_info"]["cached_tokens"], served.computed() - before))
        answers.append(answer["output_ids"])
        rest(served)
    assert told == [(0, len(known))] * 2
    # Whose namespace it is changes no token.
    assert answers[0] == first["output_ids"]


def test_a_prompt_that_a_classifier_has_seen_for_another_tenant_is_not_there(served: Served) -> None:
    prompt = prompt_of(11)
    for who in ("acme", "narrow", "other"):
        first, again = (served.generate(who, prompt, lora_path="auto")["meta_info"] for _ in range(2))
        assert (first["cached_tokens"], again["cached_tokens"] > 0) == (0, True)
        rest(served)


def test_what_was_computed_ahead_for_another_tenant_is_not_there(served: Served) -> None:
    prompt = prompt_of(3)
    prompt += [*served.generate("acme", prompt, ANSWER_TOKENS)["output_ids"], 5]
    rest(served)
    assert served.generate("other", prompt)["meta_info"]["cached_tokens"] == 0
    # An answer whose KV was made ahead is cached for the one who got it, in whole pages at least.
    assert served.generate("acme", prompt)["meta_info"]["cached_tokens"] >= len(prompt) // PAGE * PAGE


def test_calls_at_one_time_do_not_wait_for_each_others_prefix(served: Served) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(served.generate, who, prompt_of(4)) for who in ("acme", "other", "operator", "acme")]
        cached = [call.result()["meta_info"]["cached_tokens"] for call in asked]
    assert cached[1:3] == [0, 0]
    assert 0 in (cached[0], cached[3])


def test_what_the_store_has_of_a_tenant_is_that_tenants(served: Served) -> None:
    known = prompt_of(5)
    served.generate("acme", known)
    for number in range(KV_TOKENS // 64 + 4):  # until the KV cache has forgotten it
        served.generate("operator", prompt_of(100 + number))
    assert served.generate("other", known)["meta_info"]["cached_tokens"] == 0
    before = hits(served)
    assert served.generate("acme", known)["meta_info"]["cached_tokens"] > 0
    assert hits(served) > before  # and not out of the KV cache


def hits(served: Served) -> int:
    store = served.prefill()["store"]
    return store["host_hit_tokens"] + store["store_hit_tokens"]


def test_a_hint_that_cannot_be_read_is_refused(served: Served) -> None:
    body = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    for hint in ({"pin": 1}, {"pin": True, "ttl": "soon"}, {"prefetch": True}):
        assert served.post("acme", "/v1/chat/completions", {**body, "kv_hints": hint}).status_code == 400
    assert served.post("acme", "/v1/chat/completions", {**body, "agent_hints": {"osl": 5}}).status_code == 200


def test_a_tenants_own_salts_stay_apart_and_a_shared_tenant_has_the_common_cache(served: Served) -> None:
    prompt = prompt_of(6)
    served.generate("acme", prompt, extra_key="a")
    assert served.generate("acme", prompt, extra_key="b")["meta_info"]["cached_tokens"] == 0
    assert served.generate("acme", prompt, extra_key="a")["meta_info"]["cached_tokens"] > 0
    assert served.generate("other", prompt, extra_key="a")["meta_info"]["cached_tokens"] == 0
    assert served.generate("friend", prompt)["meta_info"]["cached_tokens"] == 0
    assert served.generate("operator", prompt)["meta_info"]["cached_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "{} has many beads and a few boxes"}]}),
        ("/v1/completions", {"prompt": "{} has many beads and a few boxes of them, and some"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "{} has many beads and a few boxes"}]}),
        ("/v1/responses", {"input": "{} has many beads and a few boxes"}),
        ("/modules/math/generate", {"text": "{} has many beads and a few boxes of them, and some"}),
    ],
)
def test_every_door_keeps_tenants_apart(served: Served, path: str, body: dict[str, Any]) -> None:
    limit = {"max_tokens": 2, "max_output_tokens": 2, "sampling_params": {"max_new_tokens": 2}}
    named = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    if path.endswith("generate"):
        named = "sampling_params"
    text = json.dumps({"model": "math", named: limit[named], **body}).replace("{}", f"Omar {path.replace('/', ' ')}")
    asked = json.loads(text)
    if path.endswith("generate"):
        del asked["model"]
    counted = []
    for who in ("acme", "acme", "other"):
        before = served.tenant(who)["cached_tokens"]
        reply = served.post(who, path, asked)
        assert reply.status_code == 200, reply.text
        counted.append(served.tenant(who)["cached_tokens"] - before)
        rest(served)
    assert counted[0] == counted[2] == 0
    assert counted[1] > 0


def test_who_may_not_is_told_in_the_clients_form(served: Served) -> None:
    asked: Any = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    # One pool of connections, whose ways are closed at the end; the key is each client's own.
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0) as nobody:
        narrow, slow = (nobody.with_options(api_key=served.keys[who]) for who in ("narrow", "slow"))
        with pytest.raises(openai.AuthenticationError) as unknown:
            nobody.chat.completions.create(model="math", **asked)
        assert unknown.value.code == "invalid_api_key"
        for model in ("code", "tiny-base", "no-such"):
            with pytest.raises(openai.PermissionDeniedError) as denied:
                narrow.chat.completions.create(model=model, **asked)
            assert denied.value.code == "model_not_found"
        assert [model.id for model in narrow.models.list()] == ["math", "also-math", "auto"]
        slow.chat.completions.create(model="math", **asked)
        with pytest.raises(openai.RateLimitError) as limited:
            slow.chat.completions.create(model="math", **asked)
        assert (limited.value.type, limited.value.code) == ("requests", "rate_limit_exceeded")
        assert 1 <= int(limited.value.response.headers["Retry-After"]) <= 100
    reply = served.post("narrow", "/v1/messages", {**asked, "model": "code"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
    reply = served.post("narrow", "/generate", {"text": "hi", "lora_path": "code"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "model_not_found")


def test_tokens_of_answers_count_streamed_or_not(served: Served) -> None:
    body = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "ignore_eos": True}
    before = served.tenant("acme")
    served.post("acme", "/v1/chat/completions", body)
    text = served.post("acme", "/v1/chat/completions", {**body, "stream": True}).text
    assert '"usage":{' not in text.replace(" ", "")
    after = served.tenant("acme")
    assert after["generated_tokens"] - before["generated_tokens"] == 10
    assert after["calls"] - before["calls"] == 2
    assert after["prompt_tokens"] > before["prompt_tokens"]
    for _ in range(8):
        reply = served.post("poor", "/v1/chat/completions", body)
    assert (reply.status_code, reply.json()["error"]["type"]) == (429, "tokens")


def test_a_response_is_its_tenants_alone(served: Served) -> None:
    body = {"model": "math", "input": "hi", "max_output_tokens": 4}
    kept = served.post("acme", "/v1/responses", body).json()["id"]
    for who in ("other", "operator"):
        assert served.get(who, f"/v1/responses/{kept}").status_code == 404
        assert served.post(who, "/v1/responses", {**body, "previous_response_id": kept}).status_code == 404
    assert served.get("acme", f"/v1/responses/{kept}").json()["id"] == kept


def test_a_tenants_key_opens_no_other_door(served: Served) -> None:
    for path in ("/metrics", "/deployment/state", "/server_info", "/workers", "/v1/loads"):
        assert served.get("acme", path).status_code == 403
    for path in ("/flush_cache", "/load_lora_adapter", "/abort_request", "/release_memory_occupation"):
        assert served.post("acme", path, {}).status_code == 403
    for path in ("/metrics", "/deployment/state"):
        assert served.get("operator", path).status_code == 200
        assert served.http.get(path).status_code == 401


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"extra_key": "tenant:0000"}, 400),
        ({"session_params": {"id": "1"}}, 400),
        ({"extra_key": ["a"]}, 400),
    ],
)
def test_what_reaches_for_others_is_refused(served: Served, fields: dict[str, Any], status: int) -> None:
    body = {"input_ids": [5, 6, 7], "lora_path": "math", "sampling_params": {"max_new_tokens": 1}, **fields}
    assert served.post("acme", "/generate", body).status_code == status


def test_a_body_that_hides_what_it_is_goes_no_further(served: Served) -> None:
    for kind, content in (("text/plain", b'{"text": "a"}'), ("application/json", b'{"text": "a", "b": NaN}')):
        headers = bearer(served.keys["acme"]) | {"Content-Type": kind}
        assert served.http.post("/generate", content=content, headers=headers).status_code in (400, 415)


def test_keys_are_nowhere_to_be_read(served: Served) -> None:
    metrics, state = served.get("operator", "/metrics").text, served.get("operator", "/deployment/state").text
    assert 'prefillshare_tenant_calls_total{tenant="acme"}' in metrics
    logs = "".join(log.read_text(errors="replace") for log in served.log.parent.glob("*.log"))
    for name in TENANTS:
        assert served.keys[name] not in metrics + state + logs


def test_a_revoked_key_is_unknown_within_moments(served: Served) -> None:
    before = served.file.read_text()
    served.file.write_text(before.replace('name = "friend"', 'name = "renamed"', 1).replace("sha256:", "sha256:", 1))
    wait_until(lambda: "renamed" in served.get("operator", "/deployment/state").text)
    served.file.write_text("nonsense")
    wait_until(lambda: served.state()["tenants"]["problem"] is not None)
    assert served.get("friend", "/v1/models").status_code == 200
    served.file.write_text(before)
    wait_until(lambda: served.state()["tenants"]["problem"] is None)
