"""What is remembered of responses: within which limits, for whom, and what a call that goes on from one becomes."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from prefillshare.config.responses import Responses
from prefillshare.errors import ConfigError
from prefillshare.responses.errors import ResponsesError
from prefillshare.responses.exchange import Exchange
from prefillshare.responses.ids import conversation_name, make_id, read_tag
from prefillshare.responses.kept import KeptResponses
from prefillshare.responses.store import ResponseStore
from tests.support.clock import Clock

ANSWER = {"object": "response", "status": "completed", "output": [{"type": "message", "role": "assistant", "id": "m"}]}


def store(**limits: Any) -> ResponseStore:
    return ResponseStore(Responses(**limits), Clock())


def answered(kept: ResponseStore, body: dict[str, Any]) -> str:
    exchange = Exchange(body, kept)
    exchange.finish(dict(ANSWER))
    return exchange.id


def test_the_oldest_go_when_there_are_too_many() -> None:
    kept = store(max_count=2)
    ids = [answered(kept, {"input": "a"}) for _ in range(3)]
    assert [kept.get(each) is not None for each in ids] == [False, True, True]
    assert len(kept) == 2


def test_the_oldest_go_when_they_are_too_large_and_one_that_is_too_large_is_not_kept() -> None:
    kept = store(max_bytes=5000)
    first = answered(kept, {"input": "a" * 2000})
    second = answered(kept, {"input": "a" * 3000})
    assert (kept.get(first), kept.get(second) is not None) == (None, True)
    third = answered(kept, {"input": "a" * 6000})
    assert kept.get(third) is None
    assert kept.get(second) is not None
    assert 3000 < kept.num_bytes <= 5000
    kept.delete(second)
    assert kept.num_bytes == 0


def test_what_is_too_old_is_forgotten() -> None:
    clock = Clock()
    kept = ResponseStore(Responses(max_age_s=10), clock)
    first = answered(kept, {"input": "a"})
    clock.now = 9.0
    second = answered(kept, {"input": "a"})
    clock.now = 11.0
    assert (kept.get(first), kept.get(second) is not None) == (None, True)


def test_nothing_is_kept_where_nobody_wants_it() -> None:
    kept = store()
    assert kept.get(answered(kept, {"input": "a", "store": False})) is None
    none = store(max_count=0)
    assert none.get(answered(none, {"input": "a"})) is None


@pytest.mark.parametrize("fields", [{"max_count": -1}, {"max_bytes": -1}, {"max_age_s": 0}, {"max_background": -1}])
def test_limits_that_are_none_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Responses(**fields)


def test_a_call_that_goes_on_has_all_that_went_before() -> None:
    kept = store()
    first = answered(kept, {"model": "math", "input": "one"})
    exchange = Exchange({"model": "math", "input": "two", "previous_response_id": first}, kept)
    turns = [(item["role"], item.get("content")) for item in exchange.body["input"]]
    assert turns == [("user", "one"), ("assistant", None), ("user", "two")]
    assert "previous_response_id" not in exchange.body
    assert exchange.body["store"] is False
    told = exchange.finish(dict(ANSWER))
    assert (told["previous_response_id"], told["store"], told["id"]) == (first, True, exchange.id)
    # All turns of a conversation are of one session, unless their client names one.
    assert read_tag(first) == read_tag(exchange.id)
    assert exchange.body["session_id"] == conversation_name(first)
    assert "session_id" not in Exchange({"input": "a", "user": "anna"}, kept).body


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"previous_response_id": "resp_5"}, 404, "no response 'resp_5'"),
        ({"previous_response_id": make_id()}, 404, "send the whole conversation"),
        ({"previous_response_id": 5}, 400, "is 5"),
        ({"store": "yes"}, 400, "store is 'yes'"),
        ({"background": 1}, 400, "background is 1"),
        ({"background": True, "stream": True}, 400, "background is true with stream"),
        ({"background": True, "store": False}, 400, "store false"),
        ({"conversation": "conv_1"}, 400, "go on with previous_response_id"),
        ({"prompt": {"id": "pmpt_1"}}, 400, "send its text"),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}, 400, "of type 'web_search'"),
        ({"include": ["message.output_text.logprobs"]}, 400, "ask /v1/chat/completions"),
        ({"top_logprobs": 2}, 400, "ask /v1/chat/completions"),
    ],
)
def test_what_cannot_be_answered_is_refused(fields: dict[str, Any], status: int, reason: str) -> None:
    with pytest.raises(ResponsesError, match=reason) as caught:
        Exchange({"input": "a", **fields}, store())
    assert caught.value.status == status


def test_what_is_only_prefetched_is_not_kept_nor_computed_in_the_background() -> None:
    kept = store()
    exchange = Exchange({"input": "a"}, kept, is_prefetch=True)
    told = exchange.finish({"object": "response", "status": "incomplete", "output": []})
    assert (told["store"], kept.get(exchange.id)) == (False, None)
    with pytest.raises(ResponsesError, match="background is true with prefetch"):
        Exchange({"input": "a", "background": True}, kept, is_prefetch=True)


def test_none_is_computed_in_the_background_where_none_is_kept() -> None:
    with pytest.raises(ResponsesError, match="max_count under"):
        KeptResponses(Responses(max_count=0)).open({"input": "a", "background": True})


def test_nobody_reads_a_response_by_an_id_that_they_choose() -> None:
    kept = store()
    exchange = Exchange({"input": "a", "request_id": "resp_mine"}, kept)
    assert exchange.body["request_id"] == exchange.id != "resp_mine"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_is_kept_with_its_last_event_however_it_is_cut(size: int) -> None:
    kept = store()
    exchange = Exchange({"input": "a", "stream": True}, kept)
    other = 'event: response.output_text.delta\ndata: {"delta":"b"}\n\n'
    events = [
        "event: response.created\ndata: " + json.dumps({"response": {"status": "in_progress", "id": "x"}}) + "\n\n",
        other,
        "event: response.completed\ndata: " + json.dumps({"response": ANSWER}) + "\n\n",
    ]
    sent = "".join(events).encode()
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    told = b"".join(exchange.pass_on(piece) for piece in pieces).decode()
    assert other in told
    assert told.count(exchange.id) == 2
    assert told.endswith("\n\n")
    assert json.loads(kept.get(exchange.id).response)["output"] == ANSWER["output"]  # type: ignore[union-attr]


def test_a_response_that_was_cut_off_says_so() -> None:
    kept = store()
    cut = ANSWER | {"incomplete_details": {"reason": "max_output_tokens"}}
    cut |= {"output": [{"type": "reasoning", "status": "completed"}, ANSWER["output"][0] | {"status": "completed"}]}
    exchange = Exchange({"input": "a", "stream": True}, kept)
    event = {"type": "response.completed", "sequence_number": 7, "response": cut}
    told = exchange.pass_on(b"event: response.completed\ndata: " + json.dumps(event).encode() + b"\n\n")
    head, _, data = told.partition(b"\ndata: ")
    value = json.loads(data)
    assert (head, value["type"], value["sequence_number"]) == (b"event: response.incomplete", "response.incomplete", 7)
    assert value["response"]["status"] == json.loads(kept.get(exchange.id).response)["status"] == "incomplete"  # type: ignore[union-attr]
    assert [item["status"] for item in value["response"]["output"]] == ["completed", "incomplete"]
    # A conversation may go on from it.
    assert len(Exchange({"input": "b", "previous_response_id": exchange.id}, kept).items) == 4


def test_a_response_in_the_background_is_asked_for_cancelled_and_deleted() -> None:
    async def use() -> None:
        kept, go = KeptResponses(Responses(max_background=2)), asyncio.Event()

        async def run() -> tuple[int, bytes]:
            await go.wait()
            return 200, json.dumps(ANSWER).encode()

        async def fail() -> tuple[int, bytes]:
            return 400, b'{"error": {"message": "too long"}}'

        opened = [kept.open({"input": "a", "background": True}) for _ in range(2)]
        first, second = [kept.start(exchange, run) for exchange in opened]
        assert first["status"] == "queued"
        with pytest.raises(ResponsesError, match="max_background"):
            kept.open({"input": "a", "background": True})
        await asyncio.sleep(0)
        assert json.loads(kept.get(first["id"]))["status"] == "in_progress"
        with pytest.raises(ResponsesError, match="in_progress: go on from one that is completed"):
            kept.open({"input": "a", "previous_response_id": first["id"]})
        assert json.loads(kept.cancel(second["id"]))["status"] == "cancelled"
        go.set()
        while json.loads(kept.get(first["id"]))["status"] == "in_progress":
            await asyncio.sleep(0)
        assert json.loads(kept.get(first["id"]))["status"] == "completed"
        assert json.loads(kept.get(second["id"]))["status"] == "cancelled"
        with pytest.raises(ResponsesError, match="is completed: only one in the background"):
            kept.cancel(first["id"])
        third = kept.start(kept.open({"input": "a", "background": True}), fail)
        while json.loads(kept.get(third["id"]))["status"] in ("queued", "in_progress"):
            await asyncio.sleep(0)
        assert json.loads(kept.get(third["id"]))["error"]["message"] == "too long"
        assert kept.list_items(first["id"])["data"][0]["content"] == "a"
        assert kept.delete(first["id"])["deleted"]
        with pytest.raises(ResponsesError, match="there is no response"):
            kept.get(first["id"])
        await kept.close()

    asyncio.run(use())


def test_no_tenant_takes_all_places_in_the_background() -> None:
    async def use() -> None:
        kept = KeptResponses(Responses(max_background=8))

        async def run() -> tuple[int, bytes]:
            return await asyncio.Future()

        def start(owner: str) -> str:
            begun = kept.start(kept.open({"input": "a", "background": True}, owner=owner), run)
            return str(begun["id"])

        def fill(owner: str) -> int:
            begun: list[str] = []
            with suppress(ResponsesError):
                for _ in range(9):
                    begun.append(start(owner))
            return len(begun)

        first = [start("a") for _ in range(4)]
        with pytest.raises(ResponsesError, match="4 responses of this tenant"):
            start("a")
        # What is no matter of the background is answered all the same.
        kept.open({"input": "a"}, owner="a")
        assert [fill(owner) for owner in ("b", "c", "d", "e")] == [2, 1, 1, 0]
        # A place that is given back is the next one's, not that of whoever has most.
        kept.delete(first[0], "a")
        await asyncio.sleep(0)
        assert [fill(owner) for owner in ("a", "e")] == [0, 1]
        await kept.close()

    asyncio.run(use())


def test_whoever_has_the_servers_key_may_have_all_places_in_the_background() -> None:
    async def use() -> None:
        kept = KeptResponses(Responses(max_background=3))

        async def run() -> tuple[int, bytes]:
            return await asyncio.Future()

        for _ in range(3):
            kept.start(kept.open({"input": "a", "background": True}), run)
        for owner in ("", "a"):
            with pytest.raises(ResponsesError, match="max_background"):
                kept.open({"input": "a", "background": True}, owner=owner)
        await kept.close()

    asyncio.run(use())


def test_what_was_cancelled_or_deleted_stays_so_even_if_its_call_ends_with_an_error() -> None:
    """Servers between may answer the end of a call that is cancelled with an error of their own."""

    async def use() -> None:
        kept, num_ended = KeptResponses(Responses()), 0

        async def run() -> tuple[int, bytes]:
            nonlocal num_ended
            try:
                await asyncio.Future()
            except asyncio.CancelledError:
                num_ended += 1
            raise RuntimeError("no response returned")

        cancelled, deleted = [kept.start(kept.open({"input": "a", "background": True}), run) for _ in range(2)]
        await asyncio.sleep(0)
        kept.cancel(cancelled["id"])
        kept.delete(deleted["id"])
        while num_ended < 2:
            await asyncio.sleep(0)
        assert json.loads(kept.get(cancelled["id"]))["status"] == "cancelled"
        with pytest.raises(ResponsesError, match="there is no response"):
            kept.get(deleted["id"])

    asyncio.run(use())


def test_what_is_open_during_a_response_in_the_background_opens_before_its_turn_and_closes_with_it() -> None:
    async def use() -> None:
        kept, go, held = KeptResponses(Responses()), asyncio.Event(), []

        @contextmanager
        def during() -> Iterator[None]:
            held.append(1)
            yield
            held.pop()

        async def run() -> tuple[int, bytes]:
            await go.wait()
            return 200, json.dumps(ANSWER).encode()

        first, second, third = [
            kept.start(kept.open({"input": "a", "background": True}), run, during()) for _ in range(3)
        ]
        assert len(held) == 3
        await asyncio.sleep(0)
        kept.cancel(first["id"])
        kept.delete(second["id"])
        go.set()
        while json.loads(kept.get(third["id"]))["status"] != "completed":
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert held == []
        await kept.close()

    asyncio.run(use())
