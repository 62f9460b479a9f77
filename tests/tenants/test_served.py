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
latest = "math"
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
    file.write_text(text + OF_BOTH if request.param == "colocated" else text.replace("memory_wait_s = 0\n", ""))
    keys = write_tenants(folder / "tenants.toml", **TENANTS) | {"operator": OPERATOR}
    log = folder / "served.log"
    with (
        running_deployment(file, api_key=OPERATOR, log_path=log, fork_server=partial(fork_server)) as running,
        httpx.Client(base_url=running.url, timeout=120) as http,
    ):
        yield Served(
            url=running.url,
            http=http,
            keys=keys,
            file=folder / "tenants.toml",
            log=log,
            is_colocated=request.param == "colocated",
        )


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
        assert [model.id for model in narrow.models.list()] == ["math", "latest"]
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


def test_a_key_comes_in_every_form_and_one_counts(served: Served) -> None:
    narrow, acme = served.keys["narrow"], served.keys["acme"]
    num_all = len(served.get("acme", "/v1/models").json()["data"])
    forms: list[tuple[Any, int | None]] = [
        ([("X-Api-Key", narrow)], 2),
        ([("X-Api-Key", narrow), ("Authorization", f"Bearer {acme}")], 2),
        ([("Authorization", f"Bearer {acme}"), ("X-Api-Key", narrow)], 2),
        ([("X-Api-Key", ""), ("Authorization", f"bearer  {narrow}")], 2),
        ([("Authorization", f"Bearer {narrow}"), ("Authorization", f"Bearer {acme}")], 2),
        ([("Authorization", f"Bearer {acme}")], num_all),
        ([("Authorization", acme)], None),
        ([("Authorization", f"Basic {acme}")], None),
        ([("X-Api-Key", "nobody's"), ("Authorization", f"Bearer {acme}")], None),
        ([("X-Api-Key", acme.encode() + b"\xe9")], None),
        ([("X-Api-Key", b"\xff" * 40)], None),
    ]
    for headers, expected in forms:
        reply = served.http.get("/v1/models", headers=headers)
        found = len(reply.json()["data"]) if reply.status_code == 200 else None
        assert (found, reply.status_code) == (expected, 401 if expected is None else 200), headers


def test_a_path_that_only_means_another_one_opens_no_door(served: Served) -> None:
    for path in ("/modules/math%2Fx/generate", "/modules/x%2Fgenerate", "//generate", "/v1/models/../../metrics"):
        for method in ("PUT", "POST", "GET"):
            reply = served.http.request(method, httpx.URL(served.url + path), headers=bearer(served.keys["acme"]))
            assert reply.status_code in (403, 404, 405), (method, path, reply.text)


def test_an_alias_is_the_tenants_where_all_that_it_means_is(served: Served) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    generate = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}
    names = [("latest", 200), ("no-such", 403), *([("either", 403), ("auto", 403)] if served.is_colocated else [])]
    for name, status in names:
        asked = (
            ("/v1/chat/completions", chat | {"model": name}),
            (f"/modules/{name}/generate", generate),
            ("/tokenize", {"model": name, "prompt": "hi"}),
        )
        for path, body in asked:
            for headers in ({}, {"X-Task": "code"}):
                reply = served.post("narrow", path, body, **headers)
                assert reply.status_code == status, (name, path, reply.text)
                assert "code" not in reply.text or status == 200 or '"code":"model_not_found"' in reply.text
                assert "'code'" not in reply.text
    told = {card["id"] for card in served.get("narrow", "/v1/models").json()["data"]}
    assert told == {"math", "latest"}


def test_rules_hear_the_call_behind_an_alias_in_the_address(served: Served) -> None:
    if not served.is_colocated:
        return  # over one module there is nothing to choose; tests/routing/test_changes.py asks a router
    before = {module["name"]: module["requests"] for module in served.state()["modules"]}
    body = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}
    assert served.post("acme", "/modules/auto/generate", body, **{"X-Task": "any"}).status_code == 200
    assert served.post("acme", "/modules/auto/generate", body).status_code == 200
    after = {module["name"]: module["requests"] - before[module["name"]] for module in served.state()["modules"]}
    assert (after["code"], after["math"]) == (1, 1)


def test_no_field_of_the_engines_own_comes_in_by_a_modules_address(served: Served) -> None:
    body = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}
    for path in ("/generate", "/modules/math/generate"):
        for field, value in (("image_data", "/etc/hostname"), ("lora_id", "x"), ("http_worker_ipc", "ipc:///tmp/x")):
            reply = served.post("acme", path, body | {"lora_path": "math", field: value})
            assert (reply.status_code, f"{field} cannot be set" in reply.text) == (400, True), reply.text


def test_calls_in_the_background_count_as_they_come(served: Served) -> None:
    body = {"model": "math", "input": "hi", "background": True, "max_output_tokens": 200}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: served.post("narrow", "/v1/responses", body), range(8)))
    kept = [reply.json()["id"] for reply in replies if reply.status_code == 200]
    assert len(kept) == 1
    # At its limit a tenant can still end what runs.
    assert served.post("narrow", f"/v1/responses/{kept[0]}/cancel", {}).json()["status"] == "cancelled"
    wait_until(lambda: served.tenant("narrow")["running"] == 0)


def test_kv_is_told_by_tenant_and_nothing_of_it_by_namespace(served: Served) -> None:
    prompt = prompt_of(7)
    served.generate("other", prompt)
    before = served.tenant("other")["kv_tokens"]
    assert before >= len(prompt) // PAGE * PAGE
    assert served.tenant("friend")["kv_tokens"] is None
    assert "tenant:" not in json.dumps(served.state())
    metrics = served.get("operator", "/metrics").text
    assert 'prefillshare_tenant_kv_tokens{tenant="other"}' in metrics
    assert 'prefillshare_tenant_kv_tokens{tenant="friend"}' not in metrics
    served.post("operator", "/flush_cache", {})
    wait_until(lambda: served.tenant("other")["kv_tokens"] == 0)


def test_what_is_pinned_is_counted(served: Served) -> None:
    served.post("operator", "/flush_cache", {})
    wait_until(lambda: served.prefill()["kv"]["shared_tokens"] == 0)
    assert served.prefill()["kv"]["pinned_tokens"] == 0
    body = {"model": "math", "messages": [{"role": "user", "content": "Omar has many beads and some boxes " * 4}]}
    served.post("acme", "/v1/chat/completions", body | {"max_tokens": 1, "kv_hints": {"pin": True, "ttl": 60}})
    wait_until(lambda: served.prefill()["kv"]["pinned_tokens"] > 0)
    assert "prefillshare_kv_pinned_tokens" in served.get("operator", "/metrics").text


def test_anthropics_usage_tells_what_was_written_to_the_cache(served: Served) -> None:
    text = "Layla packs beads into boxes, and " * 6
    body = {"model": "math", "max_tokens": 2, "messages": [{"role": "user", "content": text}]}
    num_prompt = served.post("acme", "/v1/messages/count_tokens", body).json()["input_tokens"]
    whole = (num_prompt - 1) // PAGE * PAGE
    first = served.post("acme", "/v1/messages", body).json()["usage"]
    assert (first["cache_creation_input_tokens"], first["input_tokens"]) == (whole, num_prompt - whole)
    rest(served)
    second = served.post("acme", "/v1/messages", body).json()["usage"]
    assert second["cache_read_input_tokens"] >= whole
    assert not second.get("cache_creation_input_tokens")
    assert second["input_tokens"] + second["cache_read_input_tokens"] == num_prompt
    # Of somebody else's, nothing was there.
    other = served.post("other", "/v1/messages", body | {"stream": True}).text
    [start] = [json.loads(line[6:]) for line in other.splitlines() if line.startswith('data: {"type":"message_start"')]
    assert start["message"]["usage"]["cache_creation_input_tokens"] == whole


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
