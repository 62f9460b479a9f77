"""Tenants of real deployments, one engine and a router before workers (I7): nobody can find out what others asked.

Not by the clock, which tells little on a busy machine, but by what it would measure: how many tokens of a prompt were
cached, as the answer says, and how many a worker computed.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.served_tenants import ANSWER_TOKENS, KV_TOKENS, PAGE, Served, prompt_of, rest
from tests.support.waiting import wait_until


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
        first, again = (served.generate(who, prompt, lora_path="seen")["meta_info"] for _ in range(2))
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
    for hint in ({"pin": 1}, {"pin": True, "ttl": "soon"}, {"prefetch": "yes"}):
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
    replies = [served.post("poor", "/v1/chat/completions", body) for _ in range(8)]
    # Not the last one for sure: with time, tokens come again.
    refused = [(reply.status_code, reply.json()["error"]["type"]) for reply in replies if reply.status_code != 200]
    assert set(refused) == {(429, "tokens")}


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
    served.flush()
    wait_until(lambda: served.tenant("other")["kv_tokens"] == 0)


def test_what_is_pinned_is_counted(served: Served) -> None:
    rest(served)
    served.flush()
    wait_until(lambda: served.prefill()["kv"]["shared_tokens"] == 0)
    assert served.prefill()["kv"]["pinned_tokens"] == 0
    body = {"model": "math", "messages": [{"role": "user", "content": "Omar has many beads and some boxes " * 4}]}
    served.post("acme", "/v1/chat/completions", body | {"max_tokens": 1, "kv_hints": {"pin": True, "ttl": 60}})
    wait_until(lambda: served.prefill()["kv"]["pinned_tokens"] > 0)
    # Of a worker that is too busy to answer in time, the memory is unknown.
    wait_until(lambda: "prefillshare_kv_pinned_tokens" in served.get("operator", "/metrics").text)


def test_what_is_prefetched_is_loaded_from_the_store_and_is_the_tenants(served: Served) -> None:
    known, ahead = prompt_of(21), {"kv_hints": {"prefetch": True}}
    served.generate("acme", known)
    for number in range(KV_TOKENS // 64 + 4):  # until the KV cache has forgotten it
        served.generate("operator", prompt_of(200 + number))
    before, computed, tokens = hits(served), served.computed(), served.tenant("acme")["generated_tokens"]
    answer = served.generate("acme", known, ANSWER_TOKENS, **ahead)
    assert (answer["output_ids"], answer["meta_info"]["finish_reason"]["type"]) == ([], "length")
    num_loaded = hits(served) - before
    assert num_loaded > 0
    assert served.computed() - computed <= len(known) - num_loaded
    assert served.tenant("acme")["generated_tokens"] == tokens
    rest(served)
    # Now it is in the KV cache, and nobody else's.
    before = hits(served)
    assert served.generate("acme", known)["meta_info"]["cached_tokens"] >= (len(known) - 1) // PAGE * PAGE
    assert hits(served) == before
    assert served.generate("other", known)["meta_info"]["cached_tokens"] == 0


def test_a_prefetched_stream_is_counted_and_pins_beside_it_hold(served: Served) -> None:
    rest(served)
    served.flush()
    wait_until(lambda: served.prefill()["kv"]["pinned_tokens"] == 0)
    body = {"model": "math", "messages": [{"role": "user", "content": "Layla has many boxes of beads, too " * 4}]}
    hints = {"kv_hints": {"prefetch": True, "pin": True, "ttl": 60}}
    before = served.tenant("acme")
    text = served.post("acme", "/v1/chat/completions", body | hints | {"stream": True}).text
    assert '"finish_reason":"length"' in text
    assert '"usage":{' not in text
    after = served.tenant("acme")
    assert after["prompt_tokens"] > before["prompt_tokens"]
    assert (after["calls"] - before["calls"], after["generated_tokens"]) == (1, before["generated_tokens"])
    wait_until(lambda: served.prefill()["kv"]["pinned_tokens"] > 0)
    assert served.post("narrow", "/v1/chat/completions", body | hints | {"model": "code"}).status_code == 403


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
