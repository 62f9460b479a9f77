"""Bodies: what is taken, what is refused and with which words, and what each leg is sent."""

import contextlib
import json
from typing import Any

import pytest

from prefillshare.config.router import Router
from prefillshare.contract import NO_BOOTSTRAP_HOST
from prefillshare.naming.names import Names
from prefillshare.routing.call.call import Call, Endpoint
from prefillshare.routing.call.legs import add_scores, make_legs, make_scoring_leg
from prefillshare.routing.call.parse import Served, parse_call
from prefillshare.routing.errors import BadCallError, UnknownModelError
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import ModelCard, Worker
from prefillshare.wire.from_router import MEMBER
from prefillshare.wire.namespace import cache_namespace

CHAT: dict[str, Any] = {"model": "math", "messages": [{"role": "user", "content": "hi"}]}
SERVED = Served(names=Names(base="base", modules=["math", "code"]), vocab_size=2000)
PREFILL = Worker(
    WorkerSpec(id="p0", role="prefill", url="http://p:1", bootstrap_host="10.0.0.1", bootstrap_port=8998), Router()
)
DECODE = Worker(WorkerSpec(id="d0", role="decode", module="math", url="http://d:1"), Router())


def _parse(body: Any, endpoint: Endpoint = "/v1/chat/completions", session: str | None = None) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_call(endpoint, raw, SERVED, header=lambda _: session)


def _legs(body: Any, endpoint: Endpoint = "/v1/chat/completions") -> tuple[dict[str, Any], dict[str, Any]]:
    prefill, decode = make_legs(_parse(body, endpoint), PREFILL, DECODE, "base")
    return json.loads(prefill.body), json.loads(decode.body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ([], "a list: send a JSON object"),
        (3, "a number: send a JSON object"),
        ({"messages": CHAT["messages"]}, "model is missing"),
        (CHAT | {"model": 3}, "model is 3"),
        (CHAT | {"messages": None}, "messages is missing"),
        (CHAT | {"messages": []}, "messages is"),
        (CHAT | {"messages": "hi"}, "messages is 'hi'"),
        (CHAT | {"stream": "yes"}, "stream is 'yes'"),
        (CHAT | {"n": 0}, "n is 0"),
        (CHAT | {"n": 129}, "n is 129"),
        (CHAT | {"n": "2"}, "n is '2'"),
        (CHAT | {"n": True}, "n is True"),
        (CHAT | {"lora_path": ["math", "code"], "model": "base"}, "several modules"),
        (b'{"model":"math","messages":[' + b"[" * 300 + b"]" * 300 + b"]}", "nest it less deeply"),
    ],
)
def test_a_chat_that_cannot_be_used_is_refused_with_the_reason(body: Any, reason: str) -> None:
    with pytest.raises(BadCallError, match=reason.replace("[", r"\[")):
        _parse(body)


@pytest.mark.parametrize("prompt", [None, "", [], {}, 3, ["a", 1], [1, "a"], [1, True], [None], [1.5]])
def test_a_prompt_of_the_wrong_kind_is_refused(prompt: Any) -> None:
    with pytest.raises(BadCallError, match="prompt "):
        _parse({"model": "math", "prompt": prompt}, "/v1/completions")


@pytest.mark.parametrize("ids", [[1, -4], [10**9], [2000], [[1], [-1]], [10**30], [[]], [[1, "a"]], [[[1]]]])
def test_ids_that_are_no_tokens_are_refused(ids: Any) -> None:
    for endpoint, name in (("/generate", "input_ids"), ("/v1/completions", "prompt")):
        with pytest.raises(BadCallError, match=f"^{name} "):
            _parse({"model": "math", name: ids}, endpoint)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"session_params": {"id": "x"}},
        {"positional_embed_overrides": 3},
        {"input_embeds": [[0.1]]},
        {"extra_key": ["a", "b"]},
        {"cache_salt": 3},
        {"return_logprob": True, "top_logprobs_num": 10**6},
        {"return_logprob": True, "top_logprobs_num": -1},
        {"logprobs": True, "top_logprobs": 100_000},
        {"logit_bias": {"5": "nan"}},
        {"logit_bias": {"5": 1e308}},
    ],
)
def test_what_a_worker_would_die_of_is_refused(fields: dict[str, Any]) -> None:
    name = list(fields)[-1]
    with pytest.raises(BadCallError, match=name):
        _parse({"model": "math", "text": "a", **fields}, "/generate")


def test_biases_are_looked_at_wherever_they_may_stand() -> None:
    for sampling in ({"logit_bias": {"5": 101}}, [{}, {"logit_bias": {"5": -101}}]):
        with pytest.raises(BadCallError, match="logit_bias"):
            _parse({"model": "math", "text": "a", "sampling_params": sampling}, "/generate")
    assert _parse(CHAT | {"logit_bias": {"5": -100, "6": 1.5}}).module == "math"


def test_a_batch_may_have_a_namespace_for_each_prompt() -> None:
    prefill, _ = _legs({"model": "math", "text": ["a", "b"], "extra_key": ["x", "y"]}, "/generate")
    assert prefill["extra_key"] == ["x", "y"]


def test_without_a_known_vocabulary_only_impossible_ids_are_refused() -> None:
    for token_id, is_refused in ((10**6, False), (-1, True), (2**31, True)):
        raw = json.dumps({"model": "math", "input_ids": [token_id]}).encode()
        with pytest.raises(BadCallError) if is_refused else contextlib.nullcontext():
            parse_call("/generate", raw, Served(names=Names(base="base", modules=["math"])))


@pytest.mark.parametrize("name", ["zzz", "base", "", "base:zzz"])
def test_other_names_are_unknown_and_the_list_is_given(name: str) -> None:
    with pytest.raises(UnknownModelError, match="math, code"):
        _parse(CHAT | {"model": name})


@pytest.mark.parametrize(
    "named",
    [
        {"model": "math"},
        {"model": "base:math"},
        {"lora_path": "math"},
        {"model": "base", "lora_path": "math"},
        {"lora_path": ["math"]},
    ],
)
def test_a_module_is_named_by_model_or_lora_path(named: dict[str, Any]) -> None:
    assert _parse({"text": "hi", **named}, "/generate").module == "math"


def test_both_legs_get_the_same_call_and_room_and_their_own_model() -> None:
    extra = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}, "cache_salt": "t"}
    prefill, decode = _legs(CHAT | extra)
    for leg in (prefill, decode):
        assert (leg["bootstrap_host"], leg["bootstrap_port"]) == ("10.0.0.1", 8998)
        assert (leg["messages"], leg["temperature"], leg["cache_salt"]) == (CHAT["messages"], 0, "t")
    assert prefill["bootstrap_room"] == decode["bootstrap_room"] > 0
    assert (prefill["model"], prefill["stream"]) == ("base", False)
    assert (decode["model"], decode["stream"]) == ("math", True)
    assert "stream_options" not in prefill
    assert decode["stream_options"] == {"include_usage": True}
    assert prefill["rid"] != decode["rid"]


def test_a_batch_gets_a_room_per_prompt() -> None:
    prefill, decode = _legs({"model": "math", "prompt": ["a", "b", "c"]}, "/v1/completions")
    assert len(set(prefill["bootstrap_room"])) == len(set(prefill["rid"])) == 3
    assert prefill["bootstrap_room"] == decode["bootstrap_room"]
    assert decode["bootstrap_host"] == ["10.0.0.1"] * 3


def test_token_ids_are_one_prompt() -> None:
    prefill, _ = _legs({"model": "math", "prompt": [1, 2, 3]}, "/v1/completions")
    assert isinstance(prefill["bootstrap_room"], int)


@pytest.mark.parametrize("is_adapter", [True, False])
def test_generate_names_the_adapter_only_where_there_is_one(is_adapter: bool) -> None:
    DECODE.card = ModelCard(is_adapter=is_adapter)
    prefill, decode = _legs({"model": "math", "input_ids": [1, 2]}, "/generate")
    assert decode.get("lora_path") == ("math" if is_adapter else None)
    assert "model" not in decode
    assert not {"model", "lora_path"} & set(prefill)


def test_a_client_cannot_set_what_belongs_to_the_router() -> None:
    own = {"rid": "a", "bootstrap_room": 1, "bootstrap_host": "evil", "bootstrap_port": 1, "lora_path": "x"}
    prefill, decode = _legs(CHAT | own)
    for leg in (prefill, decode):
        assert leg["bootstrap_host"] == "10.0.0.1"
        assert leg["rid"] != "a"
        assert "lora_path" not in leg


def test_sessions_come_from_header_then_session_id_then_user() -> None:
    named = CHAT | {"session_id": "s", "user": "u"}
    assert _parse(named, session="h").session == "h"
    assert _parse(named).session == "s"
    assert _parse(CHAT | {"user": "u"}).session == "u"
    assert _parse(CHAT).session is None


def _common(first: Any, second: Any, endpoint: Endpoint = "/v1/chat/completions") -> int:
    left, right = (_parse(body, endpoint).prompts[0] for body in (first, second))
    unequal = (position for position, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(unequal, min(len(left), len(right)))


def test_the_next_turn_begins_like_the_last_one() -> None:
    later = [*CHAT["messages"], {"role": "assistant", "content": "yes"}, {"role": "user", "content": "so"}]
    assert _common(CHAT, CHAT | {"messages": later, "model": "code"}) == _parse(CHAT).prompt_bytes


def test_a_long_message_that_ends_differently_is_shared_up_to_there() -> None:
    bodies = [CHAT | {"messages": [{"content": "x" * 500 + end, "role": "user"}]} for end in "ab"]
    assert _common(*bodies) > 500


def test_tenants_share_nothing() -> None:
    salted = [CHAT | {"cache_salt": salt, "messages": [{"role": "user", "content": "x" * 100}]} for salt in "ab"]
    assert _common(*salted) < 10
    assert _common(salted[0], salted[0] | {"cache_salt": None}) < 10


def test_other_tools_share_nothing() -> None:
    tools = [CHAT | {"tools": [{"type": name}], "messages": [{"role": "user", "content": "x" * 99}]} for name in "ab"]
    assert _common(*tools) < 40


def test_token_ids_share_their_beginning() -> None:
    bodies = [{"model": "math", "input_ids": [*range(1000, 1100), end]} for end in (1, 2)]
    assert _common(*bodies, endpoint="/generate") >= 400


def test_samples_and_what_tells_them_apart() -> None:
    prefill, decode = _legs(CHAT | {"n": 3})
    assert prefill["n"] == decode["n"] == 3
    assert prefill["bootstrap_room"] == decode["bootstrap_room"]
    call = _parse({"model": "math", "prompt": ["a", "b"], "n": 2}, "/v1/completions")
    assert (call.num_prompts, call.num_samples, call.has_one_answer) == (2, 2, False)
    with pytest.raises(BadCallError, match="n differs between the prompts"):
        _parse({"model": "math", "text": ["a", "b"], "sampling_params": [{"n": 2}, {}]}, "/generate")


def test_scores_of_a_prompt_are_asked_of_the_prefill_worker_alone() -> None:
    """In the namespace that the worker makes of the client's two keys, or another tenant's KV would be found."""
    body = {"model": "math", "prompt": "a", "echo": True, "logprobs": 2, "cache_salt": "s", "n": 2}
    call = _parse(body, "/v1/completions")
    assert call.scoring is not None
    leg = make_scoring_leg(call, PREFILL)
    asked = json.loads(leg.body)
    assert (leg.path, asked["text"], asked["top_logprobs_num"], asked["logprob_start_len"]) == ("/generate", "a", 2, 0)
    assert asked["extra_key"] == cache_namespace("s", None)
    assert asked["bootstrap_host"] == NO_BOOTSTRAP_HOST
    assert asked["sampling_params"]["max_new_tokens"] == 0
    told = json.loads(add_scores(make_legs(call, PREFILL, DECODE, "base")[1], [{"input_token_logprobs": []}]).body)
    assert told[MEMBER] == {"prompt_logprobs": [{"input_token_logprobs": []}]}
    assert (told["prompt"], told["n"], told["echo"]) == ("a", 2, True)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("/v1/completions", {"prompt": "a", "echo": True}),
        ("/v1/completions", {"prompt": "a", "logprobs": 2}),
        ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 0}),
        ("/generate", {"text": "a", "return_logprob": True}),
        ("/generate", {"text": "a", "return_logprob": True, "logprob_start_len": -1}),
        ("/generate", {"text": "a", "logprob_start_len": 0}),
    ],
)
def test_scores_nobody_wants_are_not_asked(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    assert _parse({"model": "math", **fields}, endpoint).scoring is None
