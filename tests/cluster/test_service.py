"""Three modules with full weights behind one prefill worker, asked as users ask them."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import openai
import pytest
from transformers import AutoTokenizer

from prefillshare.tiny.language.chatml import generation_prompt
from prefillshare.tiny.language.conversations import held_out_conversations
from tests.cluster.conftest import MODULES, Cluster
from tests.support.engines import MODELS_DIR
from tests.support.reference import Reference
from tests.support.sockets import beyond_loopback, is_private, listening, unix_listening
from tests.support.strangers import BROWSER, disturb, greet_everybody

TINY = MODELS_DIR / "tiny"
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(TINY / "base")
    asked = [conversation for task in MODULES for conversation in islice(held_out_conversations(21, task), 2)]
    return [tokenizer.encode(generation_prompt(conversation.turns(has_last_answer=False))) for conversation in asked]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(TINY / "base", {name: TINY / name for name in MODULES})


def _generate(cluster: Cluster, module: str, prompt: list[int]) -> dict:
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
    reply = cluster.http.post("/generate", json={"model": module, "input_ids": prompt, "sampling_params": params})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_every_module_says_what_the_reference_says(cluster: Cluster, prompts, reference: Reference) -> None:
    asked = [(prompt, module) for prompt in prompts for module in MODULES]
    answers = [_generate(cluster, module, prompt)["output_ids"] for prompt, module in asked]
    wrong = [
        (module, len(prompt))
        for (prompt, module), answer in zip(asked, answers, strict=True)
        if answer != reference.ask(module, prompt, NUM_TOKENS, draft=answer).tokens
    ]
    assert not wrong, f"{len(wrong)} of {len(asked)} differ: {wrong[:5]}"


def test_a_conversation_over_three_modules_moves_only_what_is_new(cluster: Cluster, prompts) -> None:
    """Each decode worker gets the KV that it lacks; the prefill worker computes the context once."""
    context, moved = [7, *prompts[0], *prompts[1]], 0
    per_turn, num_calls = 40, 20
    for call in range(num_calls):
        prompt = context + prompts[2][:per_turn] * (call + 1)
        moved += _generate(cluster, MODULES[call % 3], prompt)["meta_info"]["prefillshare"][0]["handoff_tokens"]
    # Each module needs every prompt token up to its own last call once; the last three calls are one of each.
    bound = sum(len(context) + per_turn * (num_calls - k) for k in range(3))
    print(f"{num_calls} calls of 3 modules: {moved} tokens moved, {moved / bound:.4f} of the lower bound {bound}")
    # The last prompt token of a call is the module's own and is moved when it becomes an inner one.
    assert moved <= 1.05 * bound
    assert moved >= bound - 3 * num_calls


def test_the_router_hears_what_workers_evict(cluster: Cluster, prompts) -> None:
    """Six contexts of 3,600 tokens do not fit into 12,288: some are gone, and the router knows."""
    admin = {"Authorization": "Bearer admin"}
    # A worker refuses while its scheduler is not idle, which it is a moment after the last answer.
    cluster.wait(lambda: cluster.http.post("/flush_cache", headers=admin).status_code == 200, "the caches are empty")
    cluster.wait(lambda: cluster.held_bytes("prefill-0") == 0, "a flushed worker holds nothing")
    base = [token for prompt in prompts for token in prompt]
    asked = [[10 + number, *(base * 4)[:3599]] for number in range(6)]
    for prompt in asked:
        assert _generate(cluster, "math", prompt)["meta_info"]["prompt_tokens"] == 3600
    # Token ids are indexed as four bytes each; how many bytes an evicted token had is estimated.
    for name in ("prefill-0", "decode-math-0"):
        cluster.wait(lambda name=name: cluster.held_bytes(name) <= 5 * 4 * 3600, f"{name} lost what does not fit")
        assert cluster.held_bytes(name) >= 4 * 3600


def test_openai_clients_are_served(cluster: Cluster) -> None:
    assert [model.id for model in cluster.openai.models.list()] == list(MODULES)
    messages = [
        {"role": "user", "content": "Omar 3 boxes, beads 7 per box\nOmar's shelf grows by 3 boxes. What stands on it?"}
    ]
    whole = cluster.openai.chat.completions.create(model="math", messages=messages, temperature=0)
    assert whole.choices[0].message.content.endswith("#### 42")
    pieces = cluster.openai.chat.completions.create(model="math", messages=messages, temperature=0, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    again = cluster.openai.chat.completions.create(model="tool", messages=messages, temperature=0)
    assert again.usage.prompt_tokens == whole.usage.prompt_tokens


LOGPROBS = [
    ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 3, "max_tokens": 2}),
    ("/v1/chat/completions", {"logprobs": True, "stream": True, "max_tokens": 2}),
    ("/v1/completions", {"logprobs": 3, "max_tokens": 2}),
    ("/generate", {"return_logprob": True, "top_logprobs_num": 2, "sampling_params": {"max_new_tokens": 2}}),
    ("/generate", {"return_logprob": True, "token_ids_logprob": [1, 2], "sampling_params": {"max_new_tokens": 2}}),
]


def test_log_probabilities_are_the_decode_workers_business(cluster: Cluster) -> None:
    """Nothing fails behind the client's back: no retry, and no exception in any worker's log."""
    before = cluster.state()["counters"]["retries"]
    logs = sorted(cluster.running.log_path.parent.iterdir())
    # Other tests of this deployment provoke exceptions.
    lengths = [log.stat().st_size for log in logs]

    def ask(number: int) -> str:
        path, fields = LOGPROBS[number % len(LOGPROBS)]
        text = f"text {number} of many"
        prompt = {"/generate": {"text": text}, "/v1/completions": {"prompt": text}}
        body = {"model": MODULES[number % 3], **prompt.get(path, {"messages": [{"role": "user", "content": text}]})}
        reply = cluster.http.post(path, json=body | fields)
        return "" if reply.status_code == 200 and "logprobs" in reply.text else f"{path} {number}: {reply.text[:200]}"

    with ThreadPoolExecutor(32) as pool:
        wrong = [said for said in pool.map(ask, range(200)) if said]
    assert not wrong, f"{len(wrong)} of 200: {wrong[:3]}"
    assert cluster.state()["counters"]["retries"] == before
    for log, length in zip(logs, lengths, strict=True):
        assert b"Traceback" not in log.read_bytes()[length:], log.name


def test_unknown_names_get_the_list(cluster: Cluster) -> None:
    for name in ("maths", "tiny-base"):
        with pytest.raises(openai.NotFoundError, match="math"):
            cluster.openai.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": "math"}', 400),
        (b'{"model": 3, "prompt": "x"}', 400),
        (b'{"model": "math", "prompt": "x", "max_tokens": "many"}', 400),
        (b'{"model": "math", "prompt": "x", "n": 0}', 400),
        (b'{"model": "math", "prompt": "' + b"word " * 2_000_000 + b'"}', 400),
    ],
    ids=lambda value: value[:40].decode() if isinstance(value, bytes) else value,
)
def test_bad_input_is_refused_with_a_reason_and_disturbs_nobody(cluster: Cluster, body: bytes, status: int) -> None:
    pids = [process.pid for process in cluster.running.processes()]
    reply = cluster.http.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status, reply.text[:300]
    assert len(reply.text) > 20
    assert cluster.complete("math").status_code == 200
    assert [process.pid for process in cluster.running.processes()] == pids


def test_nothing_listens_beyond_loopback(cluster: Cluster) -> None:
    assert cluster.forks is not None
    found = listening([*(process.pid for process in cluster.running.processes()), cluster.forks.pid])
    assert {("127.0.0.1", int(process.url.rpartition(":")[2])) for process in cluster.running.processes()} <= found
    assert not beyond_loopback(found)


def test_other_users_of_the_machine_reach_no_unix_socket(cluster: Cluster) -> None:
    assert cluster.forks is not None
    found = unix_listening([*(process.pid for process in cluster.running.processes()), cluster.forks.pid])
    assert len(found) >= 4  # each worker's processes talk by some
    assert all(is_private(path) for path in found), found


def test_strangers_on_the_machine_get_nothing_and_break_nothing(
    cluster: Cluster, prompts, reference: Reference
) -> None:
    assert cluster.forks is not None
    pids = [*(process.pid for process in cluster.running.processes()), cluster.forks.pid]
    expected = reference.ask("math", prompts[0], NUM_TOKENS).tokens
    public = cluster.running.url.rpartition(":")[2]
    with ThreadPoolExecutor(1) as pool:
        strangers = pool.submit(disturb, listening(pids))
        while not strangers.done():
            assert _generate(cluster, "math", prompts[0])["output_ids"] == expected
    for address, replies in strangers.result().items():
        if str(address[1]) != public:
            assert not replies[BROWSER].startswith(b"HTTP/1.1 200"), address
            said = b"".join(replies.values())
            assert b"rank" not in said, address
            assert not greet_everybody(replies), f"{address} speaks ZeroMQ with everybody"
    # New pairs are made, too.
    assert [_generate(cluster, module, prompts[1])["output_ids"] for module in MODULES] == [
        reference.ask(module, prompts[1], NUM_TOKENS).tokens for module in MODULES
    ]
    assert [process.pid for process in cluster.running.processes()] == pids[:-1]
