"""A new session waits while another one fills the memory, can leave meanwhile, and is then answered exactly."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from prefillshare.contract import SESSION_HEADER
from tests.fidelity.conftest import MODULES, NUM_TOKENS
from tests.support.engines import TINY_AGENTS, Endpoint, call_and_leave, engine_state, shared_engine
from tests.support.marks import starts_engine
from tests.support.waiting import wait_until

POOL_TOKENS = 4000
LARGE_TOKENS = 2750
"""Of a prompt that leaves no room for another session, and much of the memory unused."""
LONG_ANSWER = 1150
"""Longer than what comes meanwhile takes, also where the client is held up."""
DEADLINE_S = 600.0


@pytest.fixture(scope="module")
@starts_engine
def engine() -> Iterator[Endpoint]:
    size = ("--max-total-tokens", str(POOL_TOKENS), "--chunked-prefill-size", "256")
    with shared_engine(TINY_AGENTS, *size) as endpoint:
        yield endpoint


class Waiting:
    """Calls that are made while a large session is at work."""

    def __init__(self, engine: Endpoint, pool: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._pool = pool

    def ask(self, session: str, prompt: tuple[int, ...], num_tokens: int, **fields: Any) -> Future[dict[str, Any]]:
        """A call of a session by its name; the reply."""
        body = {
            "input_ids": list(prompt),
            "lora_path": MODULES[0],
            "sampling_params": {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True},
            **fields,
        }
        headers = {SESSION_HEADER: session}
        return self._pool.submit(lambda: self._engine.http.post("/generate", json=body, headers=headers).json())

    def told(self, name: str) -> int:
        """A number of what is said of calls that wait for memory."""
        worker: dict[str, Any] = engine_state(self._engine.http)["workers"][0]
        number: int = worker["admission"][name]
        return number

    def wait(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so."""
        wait_until(is_so, within_s=DEADLINE_S)

    def wait_for(self, num_waiting: int) -> None:
        """Wait until so many calls wait."""
        self.wait(lambda: self.told("waiting") == num_waiting)


@pytest.fixture
def waiting(engine: Endpoint) -> Iterator[Waiting]:
    with ThreadPoolExecutor(4) as pool:
        yield Waiting(engine, pool)


def test_a_new_session_waits_and_is_answered_exactly(engine, waiting, prompts, expected):
    large = tuple(token for prompt in prompts[3:] for token in prompt)[:LARGE_TOKENS]
    first = waiting.ask("large", large, LONG_ANSWER)
    waiting.wait(lambda: waiting.told("sessions") == 1)
    later = waiting.ask("later", prompts[0], NUM_TOKENS)
    waiting.wait_for(1)
    state = engine_state(engine.http)
    assert state["workers"][0]["queued"] >= 1
    assert sum(module["queued"] for module in state["modules"]) >= 1
    assert "prefillshare_waiting_for_memory" in engine.http.get("/metrics").text

    aborted = waiting.ask("aborted", prompts[1], NUM_TOKENS, rid="to-abort")
    waiting.wait_for(2)
    engine.http.post("/abort_request", json={"rid": "to-abort"})
    assert aborted.result(DEADLINE_S)["meta_info"]["finish_reason"]["type"] == "abort"
    waiting.wait_for(1)
    leave_while_waiting(engine, waiting, prompts[2])

    assert not first.done(), "the large answer is too short for this test"
    assert len(first.result(DEADLINE_S)["output_ids"]) == LONG_ANSWER
    reply = later.result(DEADLINE_S)
    assert reply["output_ids"] == expected[prompts[0], MODULES[0]].tokens
    assert (waiting.told("waiting"), waiting.told("overdue")) == (0, 0)


def leave_while_waiting(engine: Endpoint, waiting: Waiting, prompt: tuple[int, ...]) -> None:
    """A client gives up a call that waits: it waits no longer."""
    body = {
        "input_ids": list(prompt),
        "sampling_params": {"max_new_tokens": NUM_TOKENS, "ignore_eos": True},
        "stream": True,
    }
    call_and_leave(engine.url, body, lambda: waiting.told("waiting") == 2, {SESSION_HEADER: "left"})
    waiting.wait_for(1)


def test_an_emptied_cache_keeps_nothing_for_anybody(engine, waiting, prompts):
    large = tuple(token for prompt in reversed(prompts) for token in prompt)[: LARGE_TOKENS + 40]
    for _ in range(2):
        waiting.ask("large", large, 1).result(DEADLINE_S)
    engine.flush()
    assert waiting.told("held_tokens") == 0
