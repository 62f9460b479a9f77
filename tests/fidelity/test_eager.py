"""What an answer adds to the next prompt is there before that comes: all of it hit, exact, and hidden from everybody.

Each engine of this file computes answers of every length ahead, as the default leaves short ones out.
"""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.fidelity.conftest import MODULES, NUM_TOKENS, Prompt
from tests.support.engines import TINY_AGENTS, Endpoint, engine_state, shared_engine, with_prefill_key
from tests.support.marks import starts_engine
from tests.support.waiting import wait_until

NUM_TURNS = 5
PAGE_SIZE = 16
ANSWER_TOKENS = 40
HARD = ("--page-size", str(PAGE_SIZE), "--chunked-prefill-size", "64", "--enable-mixed-chunk")
"""Small chunks and whole pages, batches of both kinds, and too little memory for all, so that calls are retracted."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny deployment, in which the shortest answer counts."""
    return with_prefill_key(TINY_AGENTS, "eager_min_tokens = 1", tmp_path_factory.mktemp("eager"))


@pytest.fixture(scope="module")
@starts_engine
def eager(file: Path) -> Iterator[Endpoint]:
    """One that has room."""
    with shared_engine(file) as endpoint:
        yield endpoint


def counts(endpoint: Endpoint) -> dict[str, int]:
    """What the engine says of what it computed ahead."""
    return worker(endpoint)["eager"]


def worker(endpoint: Endpoint) -> dict[str, Any]:
    return engine_state(endpoint.http)["workers"][0]


def wait_for_tokens(endpoint: Endpoint, num_tokens: int) -> None:
    """Wait until so many tokens were computed ahead since the engine was started."""
    wait_until(lambda: counts(endpoint)["tokens"] >= num_tokens, f"{num_tokens} tokens: {counts(endpoint)}")
    assert counts(endpoint)["tokens"] == num_tokens


def converse(endpoint: Endpoint, opening: Prompt, page_size: int = 1, **fields: object) -> list[int]:
    """Tokens of each prompt that were computed while its call waited, in a conversation that the modules lead in turn.

    Each turn goes on exactly where the answer ended, and adds a few tokens that no module wrote.
    """
    context, computed = list(opening), []
    for turn in range(NUM_TURNS):
        before = counts(endpoint)["tokens"]
        answer = endpoint.generate(context, MODULES[turn % 3], ANSWER_TOKENS, **fields)
        computed.append(len(context) - answer.cached_tokens)
        num_shared = len(context) - 1  # base-made; the page at its end is begun, and gone on in
        context += answer.tokens
        wait_for_tokens(endpoint, before + len(context) // page_size * page_size - num_shared)
        context += [30 + turn, 31, 32]
    return computed


def test_a_conversation_waits_for_what_nobody_wrote_only(eager, prompts):
    """The rest of each prompt, the last token of the answer included, is in the tree when its call comes."""
    eager.flush()
    hits = counts(eager)["hit_tokens"]
    assert converse(eager, prompts[1]) == [len(prompts[1]), *[3] * (NUM_TURNS - 1)]
    # Each answer and the token before it, which its module had computed for itself.
    assert counts(eager)["hit_tokens"] - hits == (NUM_TURNS - 1) * (ANSWER_TOKENS + 1)


def test_tokens_count_as_hit_once(eager, prompts):
    eager.flush()
    context = list(prompts[2])
    before = counts(eager)
    context += eager.generate(context, "math", ANSWER_TOKENS).tokens
    wait_for_tokens(eager, before["tokens"] + ANSWER_TOKENS + 1)
    for module in (*MODULES, None):
        eager.generate([*context, 7], module, 1)
        assert counts(eager)["hit_tokens"] == before["hit_tokens"] + ANSWER_TOKENS + 1


def test_nobody_sees_it(eager, prompts):
    eager.flush()
    before = engine_state(eager.http)
    seen = before["workers"][0]["eager"]["tokens"]
    answer = eager.generate(prompts[3], "math", ANSWER_TOKENS)
    wait_for_tokens(eager, seen + len(prompts[3]) + len(answer.tokens) - (len(prompts[3]) - 1))
    after = engine_state(eager.http)
    rises = [
        (
            module["name"],
            {name: module[name] - then[name] for name in ("requests", "prompt_tokens", "generated_tokens")},
        )
        for module, then in zip(after["modules"], before["modules"], strict=True)
    ]
    assert dict(rises)["math"] == {
        "requests": 1,
        "prompt_tokens": len(prompts[3]),
        "generated_tokens": ANSWER_TOKENS,
    }
    assert all(not any(numbers.values()) for name, numbers in rises if name != "math")
    assert [(worker["running"], worker["queued"]) for worker in after["workers"]] == [(0, 0)]


def test_nothing_is_computed_beside_calls(eager, prompts):
    """A call that decodes would wait for it, or carry it."""

    def count_looks(number: int) -> int:
        """How often the engine was seen with a long answer and one that is over, and had computed nothing ahead."""
        eager.flush()
        before, num_looks = counts(eager)["tokens"], 0
        params = {"temperature": 0, "max_new_tokens": 3000, "ignore_eos": True}
        body = {"input_ids": [number, *prompts[13]], "lora_path": "code", "stream": True, "sampling_params": params}
        # It is left in the end: nothing of it is computed ahead.
        with eager.http.stream("POST", "/generate", json=body) as reply:
            lines = reply.iter_lines()  # a client that drops it has left
            next(lines)
            eager.generate([number, *prompts[14]], "math", ANSWER_TOKENS)
            while num_looks < 20 and (now := worker(eager))["running"] > 0:
                assert now["eager"]["tokens"] == before
                num_looks += 1
                time.sleep(0.02)
        wait_until(lambda: counts(eager)["tokens"] > before + ANSWER_TOKENS, "nothing is computed in the end")
        wait_until(lambda: counts(eager)["waiting"] == 0, "jobs are left")
        return num_looks

    # A machine that holds up the client lets the long answer end meanwhile.
    assert any(count_looks(20 + number) > 5 for number in range(8))


def test_callers_who_go_on_at_once_do_not_wait_for_what_others_left(eager, prompts):
    """Between their calls the engine is idle for a moment; a slice that began there would be in the next one's way.

    The next call is there when the last one ends, however busy the machine is. Only where the engine itself is held up
    between the two its calls do not follow at once, so not every round shows it.
    """

    def round_shows_it(number: int) -> bool:
        eager.flush()
        before = counts(eager)["tokens"]
        calls = [([number, *prompts[2]], "code", ANSWER_TOKENS)]
        calls += [([number, *prompts[3]], module, 2) for module in (*MODULES, *MODULES[:2])]
        told = state_after(eager, calls)
        is_untouched = told["running"] is not None and told["eager"]["tokens"] == before
        wait_until(lambda: counts(eager)["tokens"] > before, "nothing is computed in the end")
        wait_until(lambda: counts(eager)["waiting"] == 0, "jobs are left")
        return is_untouched

    assert any(round_shows_it(20 + number) for number in range(12))


def state_after(endpoint: Endpoint, calls: Sequence[tuple[Sequence[int], str, int]]) -> dict[str, Any]:
    """What the engine tells of itself right after these calls, all of which are sent at once on one connection: a
    server takes them one after the other (RFC 9112, 9.3.2).
    """
    address, sent = urlsplit(endpoint.url), []
    for prompt, module, num_tokens in calls:
        params = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
        body = json.dumps({"input_ids": list(prompt), "lora_path": module, "sampling_params": params})
        sent.append(
            f"POST /generate HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
    sent.append(f"GET /deployment/state HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n")
    with socket.create_connection((address.hostname, address.port), timeout=300) as connection:
        connection.sendall("".join(sent).encode())
        with connection.makefile("rb") as reader:
            said = reader.read()
    assert said.count(b"HTTP/1.1 200 OK\r\n") == len(sent), said
    found: dict[str, Any] = json.loads(said.rpartition(b"\r\n\r\n")[2])["workers"][0]
    return found


def test_a_tenant_finds_no_other_tenants_answer(eager, prompts):
    eager.flush()
    assert converse(eager, prompts[4], extra_key="a")[1:] == [3] * (NUM_TURNS - 1)
    answer = eager.generate(prompts[4], "math", ANSWER_TOKENS, extra_key="a")
    context = [*prompts[4], *answer.tokens, 7]
    assert eager.generate(context, "math", 1, extra_key="b").cached_tokens == 0
    assert eager.generate(context, "math", 1).cached_tokens == 0
    assert eager.generate(context, "math", 1, extra_key="a").cached_tokens == len(context) - 1


def test_a_flush_is_not_held_up_and_leaves_nothing(eager, prompts):
    for prompt in prompts[:12]:
        eager.generate(prompt, "tool", ANSWER_TOKENS)
        # At once: the job has just come, or its slice runs.
        eager.flush()
        assert worker(eager)["kv"]["shared_tokens"] == 0
    eager.generate(prompts[12], "tool", 1)
    assert worker(eager)["kv"]["shared_tokens"] == len(prompts[12]) - 1


def test_a_stop_token_is_left_out(eager, prompts):
    """A caller may leave it out, so it is not certain; what stands before it comes back."""
    prompt = list(prompts[6])
    tokens = eager.generate(prompt, "code", ANSWER_TOKENS).tokens
    stop = tokens[5]
    num_kept = tokens.index(stop)
    eager.flush()
    before = counts(eager)["tokens"]
    for no_trim in (False, True):
        params = {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "no_stop_trim": no_trim, "stop_token_ids": [stop]}
        body = {"input_ids": prompt, "lora_path": "code", "sampling_params": params}
        assert eager.http.post("/generate", json=body).json()["meta_info"]["completion_tokens"] == num_kept + 1
        wait_for_tokens(eager, before + 1 + num_kept)


def test_of_two_samples_none_is_certain(eager, prompts):
    eager.flush()
    before = counts(eager)["tokens"]
    params = {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "ignore_eos": True, "n": 2}
    body = {"input_ids": list(prompts[7]), "lora_path": "code", "sampling_params": params}
    assert len(eager.http.post("/generate", json=body).json()) == 2
    # One that is computed ahead, to wait for.
    eager.generate(prompts[8], "code", ANSWER_TOKENS)
    wait_for_tokens(eager, before + ANSWER_TOKENS + 1)


def test_an_abandoned_answer_is_left_out(eager, prompts):
    eager.flush()
    before = counts(eager)["tokens"]
    body = {
        "input_ids": list(prompts[8]),
        "lora_path": "code",
        "stream": True,
        "sampling_params": {"temperature": 0, "max_new_tokens": 2000, "ignore_eos": True},
    }
    with eager.http.stream("POST", "/generate", json=body) as reply:
        next(reply.iter_lines())
    wait_until(lambda: worker(eager)["running"] == 0, "the engine goes on")
    eager.generate(prompts[9], "code", ANSWER_TOKENS)
    wait_for_tokens(eager, before + ANSWER_TOKENS + 1)


def test_a_health_check_keeps_nothing_from_being_computed(eager, prompts):
    """It stands among the calls for a second, and leaves no word when it goes: calls that end meanwhile are the last.

    Only where the answer ends before the check does, which a machine may hold up, so not every round shows it.
    """
    for number in range(5):
        eager.flush()
        before = counts(eager)["tokens"]
        params = {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "ignore_eos": True}
        body = {"input_ids": [number, *prompts[2]], "lora_path": "code", "stream": True, "sampling_params": params}
        with ThreadPoolExecutor(1) as pool, eager.http.stream("POST", "/generate", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            check = pool.submit(eager.http.get, "/health")
            for _ in lines:
                pass
        assert check.result().status_code == 200
        wait_until(lambda n=before: counts(eager)["tokens"] > n, "nothing is computed")


RESERVED = ("prefillshare-eager-1", "prefillshare-push-1", "HEALTH_CHECK_1")


@pytest.mark.parametrize("rid", [*RESERVED, ["mine", "prefillshare-eager-1"], ["mine", "HEALTH_CHECK_1"]])
def test_ids_of_jobs_and_health_checks_are_refused(eager, prompts, rid):
    """A call that is taken for one would wait for everybody, and for ever for an answer."""
    prompt = list(prompts[0])
    body = {"input_ids": [prompt, prompt] if isinstance(rid, list) else prompt, "lora_path": "math", "rid": rid}
    chat = {"model": "math", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1, "rid": rid}
    completion = {"model": "math", "prompt": "hello", "max_tokens": 1, "rid": rid}
    calls = {"/generate": body, "/v1/chat/completions": chat, "/v1/completions": completion}
    for path, asked in calls.items():
        reply = eager.http.post(path, json=asked)
        assert reply.status_code == 400, path
        if path == "/generate" or isinstance(rid, str):
            assert "take another" in reply.json()["error"]["message"], path
    # Headers name no request.
    headers = {"X-Request-ID": "prefillshare-eager-1", "X-PrefillShare-Eager": "1"}
    reply = eager.http.post("/v1/chat/completions", json={**chat, "rid": None}, headers=headers)
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 1


def test_text_is_cut_as_its_continuation_will_be(eager):
    """A caller of text sends it again with more behind it: all of it is hit but what may join the next word."""
    eager.flush()
    text = "how many boxes are there in the room? " * 5
    before = counts(eager)["tokens"]
    body = {"model": "math", "prompt": text, "max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
    reply = eager.http.post("/v1/completions", json=body).json()
    wait_until(lambda: counts(eager)["tokens"] > before, "nothing is computed")
    body["prompt"] = text + reply["choices"][0]["text"] + " And then?"
    usage = eager.http.post("/v1/completions", json=body).json()["usage"]
    missed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= reply["usage"]["prompt_tokens"] + 20
    assert missed <= 12


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_chat_waits_for_its_new_question_only(eager, is_streamed):
    eager.flush()
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"Be brief. {is_streamed}"},
        {"role": "user", "content": "how many boxes are there in the room? " * 4},
    ]
    missed = []
    for question in ("and how many eggs?", "who put them there?", "when was that?"):
        before = counts(eager)["tokens"]
        answer = eager.openai.chat.completions.create(
            model="math",
            messages=messages,
            temperature=0,
            max_tokens=ANSWER_TOKENS,
            stream=is_streamed,
            extra_body={"ignore_eos": True},
            **({"stream_options": {"include_usage": True}} if is_streamed else {}),
        )
        text, usage = read_chat(answer, is_streamed)
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        missed.append(usage.prompt_tokens - cached)
        wait_until(lambda n=before: counts(eager)["tokens"] > n, "nothing is computed")
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": question}]
    # The question, the end of its turn and the begin of the answer.
    assert max(missed[1:]) <= 16


def read_chat(answer: Any, is_streamed: bool) -> tuple[str, Any]:
    if not is_streamed:
        return answer.choices[0].message.content, answer.usage
    parts = list(answer)
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices), parts[-1].usage


def test_messages_and_responses_are_chats_too(eager):
    for path, make_body in (("/v1/messages", messages_body), ("/v1/responses", responses_body)):
        eager.flush()
        turns = [{"role": "user", "content": f"how many boxes are there? {path} " * 6}]
        before = counts(eager)["tokens"]
        reply = eager.http.post(path, json=make_body(turns))
        assert reply.status_code == 200, reply.text
        wait_until(lambda n=before: counts(eager)["tokens"] > n, f"nothing is computed of {path}")
        before = counts(eager)["hit_tokens"]
        turns += [{"role": "assistant", "content": read_text(reply.json())}, {"role": "user", "content": "and eggs?"}]
        assert eager.http.post(path, json=make_body(turns)).status_code == 200
        assert counts(eager)["hit_tokens"] > before, path


def messages_body(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"model": "math", "messages": turns, "max_tokens": ANSWER_TOKENS, "temperature": 0}


def responses_body(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"model": "math", "input": turns, "max_output_tokens": ANSWER_TOKENS, "temperature": 0, "store": False}


def read_text(reply: dict[str, Any]) -> str:
    parts = reply["content"] if "content" in reply else reply["output"][-1]["content"]
    return "".join(part["text"] for part in parts)


@pytest.fixture(scope="module")
@starts_engine
def hard(file: Path) -> Iterator[Endpoint]:
    """One whose calls and jobs get in each other's way."""
    retraction = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "7"}
    with shared_engine(file, *HARD, "--max-total-tokens", "2048", environment=retraction) as endpoint:
        yield endpoint


def test_whole_pages_are_there_with_small_chunks(hard, prompts):
    hard.flush()
    computed = converse(hard, prompts[1], PAGE_SIZE)
    assert all(num < 3 + PAGE_SIZE for num in computed[1:]), computed


def test_conversations_at_the_same_time_are_exact(hard, prompts, reference):
    """Jobs between, beside and in the way of calls that are retracted, evicted and chunked (I2, I5)."""
    hard.flush()

    def lead(number: int) -> list[tuple[Prompt, str, list[int]]]:
        context, said = list(prompts[10 + number]), []
        for turn in range(3):
            module = MODULES[(number + turn) % 3]
            answer = hard.generate(context, module, NUM_TOKENS)
            said.append((tuple(context), module, answer.tokens))
            context += [*answer.tokens, 40 + number, 41]
        return said

    with ThreadPoolExecutor(6) as pool:
        said = [call for calls in pool.map(lead, range(18)) for call in calls]
    wrong = [
        (module, len(prompt))
        for prompt, module, tokens in said
        if tokens != reference.ask(module, prompt, NUM_TOKENS, draft=tokens).tokens
    ]
    assert not wrong, f"{len(wrong)} of {len(said)} differ"
    assert counts(hard)["hit_tokens"] > 0
