"""Answers of modules that read base-made KV only go from decode workers back to the store: no prefill worker computes
them again, whichever gets the next prompt and whichever module is called. An ordinary module stands beside them, whose
answers are computed ahead and pushed: with all of it at once, every token is right and no tenant finds another's.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.test_store import Stored, serving
from tests.fidelity.icarus_expected import Rules
from tests.fidelity.icarus_family import PAIRED, TINY, make_icarus_family
from tests.support.engines import flush
from tests.support.marks import starts_engine
from tests.support.monitoring import read_state
from tests.support.stores import PAGE_TOKENS, num_stored_pages, wait_for_pages
from tests.support.waiting import wait_until

NUM_TOKENS = 48
NUM_NEW = 16
NUM_TURNS = 6
WAIT_S = 300.0
DEPLOYMENT = f"""
name = "answers-pd"
topology = "disaggregated"
[prefill]
name = "tiny-base"
path = "{TINY / "base"}"
workers = 2
eager_min_tokens = 1
{{modules}}
[engine]
dtype = "float32"
max_total_tokens = 8192
[router]
policy = "round_robin"
health_timeout_s = 60
[store]
memory = "192 MiB"
"""
ORDINARY = "math"
TENANTS = (None, "a", "b")
TURNS = (ORDINARY, PAIRED[0], ORDINARY, PAIRED[1])
PROMPT = [20 + position * 31 % 900 for position in range(100)]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_icarus_family(tmp_path_factory.mktemp("icarus")).parent


@pytest.fixture(scope="module")
def rules(family: Path) -> Rules:
    return Rules(family)


@pytest.fixture(scope="module")
@starts_engine
def stored(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    paths = {ORDINARY: TINY / ORDINARY} | {name: family / name for name in PAIRED}
    modules = "".join(f'[[decode]]\nname = "{name}"\nkind = "lora"\npath = "{path}"\n' for name, path in paths.items())
    file = tmp_path_factory.mktemp("answers") / "answers.toml"
    file.write_text(DEPLOYMENT.format(modules=modules))
    with serving(file) as running:
        yield running


def ask(
    stored: Stored, module: str, prompt: list[int], *, session: str = "agents", tenant: str | None = None
) -> list[int]:
    """Greedy tokens of a call in one session."""
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
    body = {"input_ids": prompt, "lora_path": module, "sampling_params": params, "extra_key": tenant}
    reply = stored.http.post("/generate", json=body, headers={"X-Session-ID": session})
    assert reply.status_code == 200, reply.text
    return reply.json()["output_ids"]


def stores(stored: Stored, role: str) -> list[dict]:
    """What the workers of a role tell of the store."""
    workers = read_state(stored.http)["workers"]
    return [worker["store"] for worker in workers if worker["role"] == role and worker["store"]]


def test_no_answer_is_prefilled_whichever_module_and_worker_goes_on(stored, rules):
    flush(stored.http)
    before, found_before = sum(stored.num_prefilled()), found(stored)
    written_before = sum(store["written_pages"] for store in stores(stored, "decode"))
    context, num_said = list(PROMPT), 0
    for turn in range(NUM_TURNS):
        # The module changes every second call and the prefill worker with each, so all four pairs come.
        module = PAIRED[turn // 2 % 2]
        answer = ask(stored, module, context)
        assert answer == rules.judge((tuple(context), module), answer).tokens
        # The last token of an answer is never computed.
        wait_for_pages(stored.file, (len(context) + NUM_TOKENS - 1) // PAGE_TOKENS, WAIT_S)
        num_said += NUM_TOKENS
        context += [*answer, *(10 + (turn * 31 + place * 7) % 500 for place in range(NUM_NEW))]

    num_least = len(context) - NUM_NEW - num_said
    num_prefilled = sum(stored.num_prefilled()) - before
    written = sum(store["written_pages"] for store in stores(stored, "decode")) - written_before
    print(f"{num_prefilled} tokens prefilled, {num_least} that no module wrote, {written} pages went back")
    assert num_prefilled <= num_least + PAGE_TOKENS * NUM_TURNS
    assert found(stored) - found_before >= num_said - 2 * NUM_TOKENS
    assert written >= num_said // PAGE_TOKENS - NUM_TURNS
    jobs = read_state(stored.http)["eager_jobs"]
    assert jobs["done"] + jobs["failed"] == 0


def found(stored: Stored) -> int:
    """Tokens that prefill workers took from the store."""
    return sum(store["store_hit_tokens"] for store in stores(stored, "prefill"))


def test_an_answer_that_is_given_up_goes_back_as_far_as_it_came(stored, rules):
    flush(stored.http)
    num_seen = 0
    params = {"temperature": 0, "max_new_tokens": 3000, "ignore_eos": True}
    body = {"input_ids": PROMPT, "lora_path": PAIRED[0], "sampling_params": params, "stream": True}
    with stored.http.stream("POST", "/generate", json=body) as reply:
        for line in reply.iter_lines():
            num_seen += line.startswith("data: ")
            if num_seen > NUM_TOKENS:
                break
    wait_for_pages(stored.file, (len(PROMPT) + NUM_TOKENS) // PAGE_TOKENS, WAIT_S)
    said = ask(stored, PAIRED[0], PROMPT)
    before = sum(stored.num_prefilled())
    turn = [*PROMPT, *said, *PROMPT[:NUM_NEW]]
    answer = ask(stored, PAIRED[1], turn)
    assert answer == rules.judge((tuple(turn), PAIRED[1]), answer).tokens
    assert sum(stored.num_prefilled()) - before <= NUM_NEW + 2 * PAGE_TOKENS


def test_a_flush_forgets_answers_as_well(stored):
    flush(stored.http)
    said = ask(stored, PAIRED[0], PROMPT)
    flush(stored.http)
    assert num_stored_pages(stored.file) == 0
    before = sum(stored.num_prefilled())
    turn = [*PROMPT, *said]
    ask(stored, PAIRED[1], turn)
    assert sum(stored.num_prefilled()) - before == len(turn)


def converse(stored: Stored, number: int) -> list[tuple[str, list[int], list[int]]]:
    """One session of a tenant: each module that was asked, what it was asked, and what it said."""
    tenant, calls = TENANTS[number % len(TENANTS)], []
    context = [*PROMPT, *(30 + number for _ in range(number // len(TENANTS)))]
    for turn, module in enumerate(TURNS):
        calls.append((module, context, ask(stored, module, context, session=f"together {number}", tenant=tenant)))
        context = [*context, *calls[-1][2], *(10 + (turn * 31 + place * 7) % 500 for place in range(NUM_NEW))]
    return calls


def check_exact(rules: Rules, calls: list[tuple[str, list[int], list[int]]]) -> None:
    """All of them said what they had to."""
    for module, context, answer in calls:
        assert answer == rules.judge((tuple(context), module), answer).tokens, (module, len(context))


def num_jobs(stored: Stored) -> int:
    """Jobs of the router that have ended."""
    jobs = read_state(stored.http)["eager_jobs"]
    return sum(jobs[name] for name in ("done", "dropped", "cancelled", "failed"))


def wait_for_jobs(stored: Stored, num_wanted: int) -> None:
    """Wait until so many have ended."""
    wait_until(lambda: num_jobs(stored) >= num_wanted, lambda: read_state(stored.http)["eager_jobs"])


def test_no_tenant_finds_what_another_has_asked(stored, rules):
    flush(stored.http)
    for tenant in TENANTS:
        before = sum(stored.num_prefilled())
        answer = ask(stored, PAIRED[0], PROMPT, session=f"of {tenant}", tenant=tenant)
        assert answer == rules.judge((tuple(PROMPT), PAIRED[0]), answer).tokens
        assert sum(stored.num_prefilled()) - before == len(PROMPT)


def test_everything_at_once_is_exact(stored, rules):
    """Both kinds of modules, answers computed ahead and pushed, pages written from both sides, three tenants."""
    flush(stored.http)
    with ThreadPoolExecutor(6) as pool:
        for calls in pool.map(lambda number: converse(stored, number), range(6)):
            check_exact(rules, calls)
    # Nobody else asks now: what is computed ahead has its time, and the session has shown who is next.
    settled = len(TURNS) // 2 * 6
    wait_for_jobs(stored, settled)
    before = num_jobs(stored)
    for number in range(6, 9):
        context = [*PROMPT, number]
        for turn, module in enumerate(TURNS[:2] * 2):
            answer = ask(stored, module, context, session=f"together {number}")
            check_exact(rules, [(module, context, answer)])
            context = [*context, *answer, *(10 + (turn * 31 + place * 7) % 500 for place in range(NUM_NEW))]
            before += module == ORDINARY
            wait_for_jobs(stored, before)
    jobs = read_state(stored.http)["eager_jobs"]
    assert jobs["done"] > 0
    assert jobs["pushed"] > 0
    for role in ("prefill", "decode"):
        assert sum(store["written_pages"] for store in stores(stored, role)) > 0
        for store in stores(stored, role):
            assert (store["damaged_pages"], store["failures"]) == (0, 0)
