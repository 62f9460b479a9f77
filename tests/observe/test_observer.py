"""Counting requests from their beginning to their end, with a clock that is set by hand."""

import pytest

from prefillshare.observe.events import MAX_EVENTS, MAX_MESSAGE, Events
from prefillshare.observe.observer import Handoffs, Observer
from prefillshare.observe.sessions import Prompt
from prefillshare.observe.state import ModuleFacts, deployment_state
from tests.support.clock import Clock

PROMPT = Prompt(data=b"x" * 40)


def test_one_good_request() -> None:
    observer = Observer(Clock(50.0))
    request = observer.begin("math", session="s", prompt=PROMPT)
    stats = observer.stats_of("math")
    assert (stats.num_running, stats.requests) == (1, 0)
    request.note_wait(0.25)
    request.note_prefill(tokens=10, own=2, cross=3, avoidable=4)
    request.note_first_token(0.5)
    request.note_tokens(4, 0.4)
    request.end("ok", seconds=1.0, retractions=1)
    assert stats.counters() == {
        "requests": 1,
        "errors": 0,
        "refused": 0,
        "aborted": 0,
        "prompt_tokens": 10,
        "own_hit_tokens": 2,
        "cross_hit_tokens": 3,
        "avoidable_tokens": 4,
        "generated_tokens": 5,
        "retractions": 1,
    }
    assert stats.num_running == 0
    assert [stats.latency()[name]["count"] for name in ("ttft", "itl", "e2e", "queue")] == [1, 4, 1, 1]
    assert stats.itl.sum == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("outcome", "counted", "told"),
    [
        ("error", (3, 0, 0), [("error", "it broke")]),
        ("refused", (0, 3, 0), [("refusal", "it broke")]),
        ("aborted", (0, 0, 3), []),
        ("ok", (0, 0, 0), []),
    ],
)
def test_a_request_ends_once_and_a_batch_counts_its_prompts(outcome, counted, told) -> None:
    observer = Observer(Clock(50.0))
    request = observer.begin("math", session=None, prompt=PROMPT, num_prompts=3)
    request.end(outcome, seconds=1.0, reason="it broke")
    request.end("error")
    stats = observer.stats_of("math")
    assert (stats.requests, stats.num_running) == (3, 0)
    assert (stats.errors, stats.refused, stats.aborted) == counted
    assert stats.e2e.count == (outcome == "ok")
    assert [(event["kind"], event["message"]) for event in observer.events.as_list()] == told


def test_a_further_try_does_not_count_the_prompt_again() -> None:
    observer = Observer(Clock(50.0))
    request = observer.begin("math", session=None, prompt=PROMPT)
    request.note_prefill(tokens=10, own=0, cross=4)
    request.note_prefill(tokens=10, own=9, cross=0)
    assert (observer.stats_of("math").prompt_tokens, observer.stats_of("math").own_hit_tokens) == (10, 0)


def test_a_request_that_goes_on_as_others_counts_no_more() -> None:
    observer = Observer(Clock(50.0))
    request = observer.begin("math", session="s", prompt=PROMPT)
    request.withdraw()
    request.end("ok", seconds=1.0)
    assert (observer.stats_of("math").requests, observer.stats_of("math").num_running) == (0, 0)
    assert observer.sessions.as_list()[0]["running"] == 0


def test_totals_are_the_sum_of_the_modules() -> None:
    observer = Observer(Clock(50.0))
    for module in ("math", "math", "tool"):
        request = observer.begin(module, session=None, prompt=PROMPT)
        request.note_prefill(tokens=10, own=1, cross=2)
    totals = observer.totals()
    assert (totals.num_running, totals.prompt_tokens, totals.own_hit_tokens, totals.cross_hit_tokens) == (3, 30, 3, 6)


def test_handoffs_without_a_time_leave_it_unknown() -> None:
    handoffs = Handoffs()
    handoffs.add(tokens=3, size=300)
    assert handoffs.seconds is None
    assert handoffs.memory_calls is None
    handoffs.add(tokens=2, size=200, seconds=0.5)
    assert (handoffs.calls, handoffs.tokens, handoffs.bytes, handoffs.seconds) == (2, 5, 500, 0.5)


def test_handoffs_into_memory_are_counted_where_the_way_is_known() -> None:
    handoffs = Handoffs()
    handoffs.add(tokens=3, size=300, is_by_memory=False)
    assert (handoffs.memory_calls, handoffs.memory_bytes) == (0, 0)
    handoffs.add(tokens=2, size=200, is_by_memory=True)
    assert (handoffs.calls, handoffs.memory_calls, handoffs.memory_bytes) == (2, 1, 200)


def test_events_are_numbered_kept_to_a_limit_and_not_told_in_floods() -> None:
    clock = Clock(50.0)
    events = Events(clock)
    for _ in range(5):
        events.tell("refusal", "math", "too many")
    events.tell("refusal", "tool", "too many")
    clock.now += 1.5
    events.tell("refusal", "math", "too many")
    told = events.as_list()
    assert [(one["id"], one["subject"]) for one in told] == [(1, "math"), (2, "tool"), (3, "math")]
    assert told[2]["message"] == "too many (and 4 more before)"
    for number in range(2 * MAX_EVENTS):
        events.tell("error", f"w{number}", "broke " * 1000)
    told = events.as_list()
    assert len(told) == MAX_EVENTS
    assert told[-1]["id"] == 3 + 2 * MAX_EVENTS
    assert len(told[-1]["message"]) == MAX_MESSAGE
    assert [one["id"] for one in told] == sorted(one["id"] for one in told)


def test_the_document_has_every_module_with_its_queue() -> None:
    clock = Clock(50.0)
    observer = Observer(clock)
    for _ in range(3):
        observer.begin("math", session="s", prompt=PROMPT)
    clock.now = 60.0
    facts = [
        ModuleFacts(name="math", kind="lora", is_prefill_module=False, queued=2),
        ModuleFacts(name="base", kind="base", is_prefill_module=True),
    ]
    state = deployment_state(
        observer, name="n", topology="colocated", prefill_module="base", modules=facts, workers=[], repins=4
    )
    assert (state["schema"], state["started"], state["time"], state["repins"]) == (1, 50.0, 60.0, 4)
    assert [(one["name"], one["running"], one["queued"]) for one in state["modules"]] == [
        ("math", 1, 2),
        ("base", 0, 0),
    ]
    assert state["sessions"]["total"] == 1
    assert state["sessions"]["items"][0]["running"] == 3
