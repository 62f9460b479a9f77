"""What the engine counts, against what a scripted session must give: exact tokens, per module.

The shared tree holds x_1..x_{n-1} of each prompt, and of a hit each token belongs to the module that put it there.
"""

from collections import Counter
from itertools import pairwise

import httpx
import pytest

from tests.support.engines import Endpoint, engine_state
from tests.support.monitoring import SAMPLES, Step, counted, module_of, names_in, observed, scraped, worker_of
from tests.support.state_document import mistakes_in
from tests.support.waiting import wait_until

NUM_TOKENS = 5
CONTEXT = tuple(10 + (7 * i) % 900 for i in range(100))
OTHER = tuple(20 + (11 * i) % 900 for i in range(40))
SCRIPT = (
    Step(module="math", prompt=CONTEXT[:60], own=0, cross=0),
    Step(module="tool", prompt=CONTEXT[:80], own=0, cross=59),
    Step(module="math", prompt=CONTEXT, own=59, cross=20),
    Step(module="tool", prompt=CONTEXT, own=20, cross=79),
    Step(module="code", prompt=OTHER, own=0, cross=0),
    Step(module="code", prompt=OTHER, own=39, cross=0),
    Step(module="tiny-base", prompt=OTHER, own=0, cross=39),
)


@pytest.fixture
def engine(agents: Endpoint) -> Endpoint:
    """The engine with an empty cache."""
    agents.flush()
    return agents


def state(engine: Endpoint) -> dict:
    found = engine_state(engine.http)
    assert mistakes_in(found) == []
    return found


def ask(engine: Endpoint, step: Step, session: str, **fields: object) -> httpx.Response:
    body = {
        "input_ids": list(step.prompt),
        "lora_path": None if step.module == "tiny-base" else step.module,
        "sampling_params": {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True},
        **fields,
    }
    return engine.http.post("/generate", json=body, headers={"X-Session-ID": session})


def expected(script: tuple[Step, ...], num_tokens: int) -> dict[str, tuple[int, ...]]:
    """The counters' rises, in the order of `COUNTERS`."""
    found: dict[str, tuple[int, ...]] = {}
    for step in script:
        rise = (1, 0, 0, len(step.prompt), step.own, step.cross, num_tokens)
        found[step.module] = tuple(a + b for a, b in zip(found.get(step.module, (0,) * 7), rise, strict=True))
    return found


def test_a_scripted_session_is_counted_exactly(engine: Endpoint) -> None:
    before = state(engine)
    for number, step in enumerate(SCRIPT):
        reply = ask(engine, step, "script", stream=number % 2 == 1)
        assert reply.status_code == 200, reply.text
        if number % 2 == 0:
            meta = reply.json()["meta_info"]
            assert meta["prefillshare"] == [{"own_hit_tokens": step.own, "cross_hit_tokens": step.cross}]
            assert meta["cached_tokens"] == step.own + step.cross
    after = state(engine)
    assert counted(before, after) == expected(SCRIPT, NUM_TOKENS)
    for module, num_calls in Counter(step.module for step in SCRIPT).items():
        seen = {name: observed(before, after, module, name) for name in ("ttft", "itl", "e2e", "queue")}
        assert seen == {"ttft": num_calls, "itl": num_calls * (NUM_TOKENS - 1), "e2e": num_calls, "queue": num_calls}

    samples = scraped(engine.http.get("/metrics").text)
    for module in after["modules"]:
        for name, sample in SAMPLES.items():
            assert samples[sample, (("module", module["name"]),)] == module[name]


def test_the_kv_memory_is_told_to_the_token(engine: Endpoint) -> None:
    # A supervisor or a load balancer may look at it at any time.
    assert engine.http.get("/health").status_code == 200
    empty = worker_of(state(engine), "engine")["kv"]
    assert empty["shared_tokens"] == empty["private_tokens"] == 0
    assert empty["free_tokens"] == empty["capacity_tokens"]
    for step in SCRIPT[:6]:
        ask(engine, step, "kv")
    kv = worker_of(state(engine), "engine")["kv"]
    held = len(CONTEXT) - 1 + len(OTHER) - 1
    assert (kv["shared_tokens"], kv["evictable_tokens"], kv["private_tokens"]) == (held, held, 0)
    assert kv["free_tokens"] == kv["capacity_tokens"] - held
    samples = scraped(engine.http.get("/metrics").text)
    labels = (("module", ""), ("role", "engine"), ("worker", "engine"))
    assert samples["prefillshare_kv_shared_tokens", labels] == held
    assert samples["prefillshare_kv_shared_bytes", labels] == held * kv["token_bytes"]
    flushed = [event for event in state(engine)["events"] if event["kind"] == "flush"]
    assert flushed


def test_chunks_and_batches_count_once(engine: Endpoint) -> None:
    """Longer than a chunk; and the prompts of a batch are requests of their own."""
    long_prompt = tuple(10 + (13 * i) % 900 for i in range(2500))
    before = state(engine)
    for module in ("math", "tool"):
        assert ask(engine, Step(module=module, prompt=long_prompt, own=0, cross=0), "long").status_code == 200
    batch = {
        "input_ids": [list(OTHER), list(OTHER)],
        "lora_path": ["code", "math"],
        "sampling_params": {"temperature": 0, "max_new_tokens": 2, "ignore_eos": True},
    }
    assert engine.http.post("/generate", json=batch).status_code == 200
    found = counted(before, state(engine))
    assert found["tool"] == (1, 0, 0, 2500, 0, 2499, NUM_TOKENS)
    assert found["math"][0] + found["code"][0] == 3
    assert found["math"][3] + found["code"][3] == 2500 + 2 * len(OTHER)


def test_openai_calls_tell_the_same(engine: Endpoint) -> None:
    before = state(engine)
    texts = [
        engine.chat(module, "how many boxes are there? " * 4, max_tokens=3, user="u-7") for module in ("math", "tool")
    ]
    first, second = (reply.json() for reply in texts)
    num_tokens = first["usage"]["prompt_tokens"]
    assert first["metadata"]["prefillshare"] == {"own_hit_tokens": 0, "cross_hit_tokens": 0}
    assert second["metadata"]["prefillshare"] == {"own_hit_tokens": 0, "cross_hit_tokens": num_tokens - 1}
    after = state(engine)
    assert counted(before, after)["tool"][3:6] == (num_tokens, 0, num_tokens - 1)
    session = next(session for session in after["sessions"]["items"] if session["id"] == "u-7")
    assert (session["is_explicit"], session["modules"], session["num_calls"]) == (True, ["math", "tool"], 2)
    assert session["divergence"] is None


def test_sessions_show_where_their_modules_part(engine: Endpoint) -> None:
    roles = {"math": (3, 4, 5), "tool": (3, 7, 8)}
    for module, role in roles.items():
        ask(engine, Step(module=module, prompt=role + CONTEXT, own=0, cross=0), "role-in-front")
        ask(engine, Step(module=module, prompt=CONTEXT + role, own=0, cross=0), "role-at-the-end")
    found = {session["id"]: session for session in state(engine)["sessions"]["items"]}
    front, end = found["role-in-front"]["divergence"], found["role-at-the-end"]["divergence"]
    assert (front["token"], end["token"]) == (1, len(CONTEXT) + 1)
    assert front["fraction"] == pytest.approx(1 / 103)
    assert front["modules"] == end["modules"] == ["math", "tool"]
    assert found["role-in-front"]["cross_hit_tokens"] == 1
    assert found["role-at-the-end"]["cross_hit_tokens"] == len(CONTEXT) + 1


def test_refused_requests_are_no_errors_and_left_ones_aborts(engine: Endpoint) -> None:
    before = state(engine)
    wrong = ask(engine, Step(module="math", prompt=OTHER, own=0, cross=0), "w", sampling_params={"max_new_tokens": -1})
    assert wrong.status_code == 400
    for number in range(3):  # names that nobody serves are refused, not counted
        step = Step(module=f"nobody-{number}", prompt=OTHER, own=0, cross=0)
        assert ask(engine, step, "w").status_code == 400
    body = {
        "input_ids": list(OTHER),
        "lora_path": "tool",
        "stream": True,
        "sampling_params": {"max_new_tokens": 2000, "ignore_eos": True},
    }
    with engine.http.stream("POST", "/generate", json=body) as reply:
        next(reply.iter_lines())
    wait_until(
        lambda: module_of(state(engine), "tool")["aborted"] != module_of(before, "tool")["aborted"],
        "the engine did not notice that the client left",
    )
    after = state(engine)
    found = counted(before, after)
    assert set(found) == {"math", "tool"}
    assert found["math"] == (1, 0, 0, 0, 0, 0, 0)
    assert module_of(after, "math")["refused"] == module_of(before, "math")["refused"] + 1
    assert found["tool"][:5] == (1, 0, 1, len(OTHER), 0)
    assert ("refusal", "math") in {(event["kind"], event["subject"]) for event in state(engine)["events"]}


def test_one_scrape_has_ours_and_sglangs_metrics(engine: Endpoint) -> None:
    names = names_in(engine.http.get("/metrics").text)
    assert {*SAMPLES.values(), "prefillshare_kv_free_bytes", "sglang:num_running_reqs"} <= names
    events = state(engine)["events"]
    assert all(first["id"] < second["id"] for first, second in pairwise(events))
