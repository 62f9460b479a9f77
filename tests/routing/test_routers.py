"""Several routers: each session has one of them, any answers any call, and a lost one costs its open streams only."""

import asyncio
import contextlib
import io
from dataclasses import replace
from typing import Any

import orjson
import pytest

from prefillshare.errors import ConfigError
from prefillshare.naming.names import Names
from prefillshare.routing.call.parse import Served, parse_call
from prefillshare.routing.peers.exchange import PEER_PATH
from prefillshare.routing.peers.hop import HOP_HEADER, Hops
from prefillshare.routing.peers.ownership import rank_owners, session_key
from prefillshare.routing.peers.peer import Load, Report, read_report
from prefillshare.routing.settings import RouterSettings
from prefillshare.serving.machine.ports import free_port
from tests.routing.routers import ADMIN_KEY, sees_others, session_of, start_router, two_routers
from tests.routing.workers import BASE, Deployment, deployment, in_loop, until

ROUTERS = [f"http://10.0.0.{number}:30000" for number in range(1, 6)]
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


def _calls(running: Deployment) -> int:
    return running.gateway.proxy.counters.calls


def _pins(running: Deployment) -> int:
    return len(running.parts.sessions)


def test_without_one_router_only_its_sessions_move_and_evenly() -> None:
    keys = [f"session {number}".encode() for number in range(2000)]
    owners = {key: rank_owners(key, ROUTERS)[0] for key in keys}
    assert all(300 < list(owners.values()).count(router) < 500 for router in ROUTERS)
    left = ROUTERS[1:]
    moved = [rank_owners(key, left)[0] for key in keys if owners[key] == ROUTERS[0]]
    assert all(rank_owners(key, left)[0] == owner for key, owner in owners.items() if owner != ROUTERS[0])
    assert all(50 < moved.count(router) < 150 for router in left)
    assert all(rank_owners(key, ROUTERS[::-1]) == rank_owners(key, ROUTERS) for key in keys)


def _key(endpoint: Any, **body: Any) -> bytes:
    served = Served(names=Names(base=BASE, modules=("math",)))
    return session_key(parse_call(endpoint, orjson.dumps({"model": "math", **body}), served))


def test_all_turns_of_a_session_without_a_name_have_one_owner_and_other_sessions_others() -> None:
    system, first = {"role": "system", "content": "s" * 5000}, {"role": "user", "content": "why is it so?"}
    turn = [system, first]
    later = [*turn, {"role": "assistant", "content": "so"}, {"role": "user", "content": "and now?"}]
    other = [system, {"role": "user", "content": "who is it?"}]
    chat = "/v1/chat/completions"
    assert _key(chat, messages=turn) == _key(chat, messages=later) != _key(chat, messages=other)
    assert _key(chat, messages=turn) != _key(chat, messages=turn, cache_salt="other tenant")
    text = "t" * 1000
    assert _key("/v1/completions", prompt=text) == _key("/v1/completions", prompt=text + "and on")
    assert _key("/generate", text=text, session_id="a") == _key(chat, messages=turn, user="a")


@in_loop
async def test_a_session_has_one_router_whichever_is_asked() -> None:
    async with two_routers() as (first, second):
        session = session_of(second.url, first.url)
        for stream in (False, True):
            replies = [await running.chat(user=session, stream=stream) for running in (first, second)]
            bodies = [await reply.read() for reply in replies]
            assert [reply.status for reply in replies] == [200, 200]
            assert bodies[0] == bodies[1]
            assert replies[0].headers["X-Decode-Worker"] == replies[1].headers["X-Decode-Worker"]
            assert replies[0].headers["Content-Type"] == replies[1].headers["Content-Type"]
        assert (_calls(first), _calls(second)) == (0, 4)
        assert (_pins(first), _pins(second)) == (0, 1)
        assert first.parts.chooser.index.num_nodes == 0 < second.parts.chooser.index.num_nodes
        assert (await first.state())["routers"]["forwarded"] == 2


@in_loop
async def test_pieces_of_a_stream_come_as_they_are_made() -> None:
    async with two_routers() as (first, second):
        for worker in (first["math-0"], first["math-1"]):
            worker.gate = asyncio.Semaphore(1)
        reply = await first.chat(user=session_of(second.url, first.url), stream=True)
        async with asyncio.timeout(60):
            assert await reply.content.readany() == b"data: one\n\n"
        reply.close()


@in_loop
async def test_what_the_owner_refuses_is_refused_with_its_words() -> None:
    async with two_routers() as (first, second):
        first["math-0"].status = first["math-1"].status = 400
        replies = [await running.chat(user=session_of(second.url, first.url)) for running in (first, second)]
        texts = [await reply.text() for reply in replies]
        assert [reply.status for reply in replies] == [400, 400]
        assert all("says 400" in text for text in texts)


@in_loop
async def test_a_large_call_by_the_address_of_a_module_is_passed_on() -> None:
    async with two_routers() as (first, second):
        body = {"text": "x" * 3_000_000, "session_id": session_of(second.url, first.url)}
        data, headers = io.BytesIO(orjson.dumps(body)), {"Content-Type": "application/json"}
        async with first.http.post(f"{first.url}/modules/math/generate", data=data, headers=headers) as reply:
            assert reply.status == 200
        assert (_calls(first), _calls(second)) == (0, 1)


@in_loop
async def test_a_client_that_leaves_is_noticed_at_the_workers() -> None:
    async with two_routers() as (first, second):
        for worker in (first["math-0"], first["math-1"]):
            worker.pause_s = 30.0
        reply = await first.chat(user=session_of(second.url, first.url), stream=True)
        await reply.content.readany()
        reply.close()
        await until(lambda: first["math-0"].aborted or first["math-1"].aborted)
        await until(lambda: first.gateway.num_running == second.gateway.num_running == 0)


@in_loop
async def test_a_call_is_passed_on_once_and_a_strangers_mark_is_refused() -> None:
    async with two_routers() as (first, second):
        session = session_of(second.url, first.url)
        hops = Hops(ADMIN_KEY, first.url)
        for mark, status in ((hops.mark_for(first.url), 200), (hops.mark_for(second.url), 403), ("1", 403)):
            body = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "user": session}
            headers = {HOP_HEADER: mark}
            async with first.http.post(f"{first.url}/v1/chat/completions", json=body, headers=headers) as reply:
                assert reply.status == status, mark
        assert (_calls(first), _calls(second)) == (1, 0)


@in_loop
async def test_clients_need_their_key_and_it_is_asked_for_once() -> None:
    async with two_routers(settings={"api_key": "k"}) as (first, second):
        session = session_of(second.url, first.url)
        body = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "user": session}
        url = f"{first.url}/v1/chat/completions"
        for headers, status in (({}, 401), ({"Authorization": "Bearer k"}, 200)):
            async with first.http.post(url, json=body, headers=headers) as reply:
                assert reply.status == status
        for method in ("GET", "PUT"):
            async with first.http.request(method, first.url + PEER_PATH, headers=ADMIN) as reply:
                assert reply.status == 403
        marked = {HOP_HEADER: Hops(ADMIN_KEY, first.url).mark_for(first.url)}
        async with first.http.delete(f"{first.url}/workers/p0", headers=marked) as reply:
            assert reply.status == 401


@in_loop
async def test_each_router_counts_what_the_other_has_at_the_workers() -> None:
    async with two_routers(health_interval_s=5.0) as (first, second):
        for worker in (first["math-0"], first["math-1"]):
            worker.gate = asyncio.Semaphore(0)
        chat = {"user": session_of(first.url, second.url), "stream": True}
        held = [asyncio.create_task(first.chat(text=f"{number}", **chat)) for number in range(3)]
        await until(lambda: first["math-0"].running + first["math-1"].running == 3)
        seen = {name: first.parts.pool.get(name) for name in ("math-0", "math-1")}
        there = {name: second.parts.pool.get(name) for name in seen}
        await until(lambda: all(there[name].load == seen[name].load for name in seen))  # type: ignore[union-attr]
        assert all(worker.num_running == 0 for worker in there.values())  # type: ignore[union-attr]
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await until(lambda: all(worker.load == 0 for worker in there.values()))  # type: ignore[union-attr]


@in_loop
async def test_a_worker_that_another_router_has_filled_is_waited_for() -> None:
    async with two_routers(max_running_per_worker=1) as (first, second):
        for worker in (first["math-0"], first["math-1"]):
            worker.gate = asyncio.Semaphore(0)
        mine, others = session_of(first.url, second.url), session_of(second.url, first.url)
        held = [asyncio.create_task(first.chat(user=mine, stream=True)) for _ in range(2)]
        math = [second.parts.pool.get(name) for name in ("math-0", "math-1")]
        await until(lambda: all(worker.load == 1 for worker in math))  # type: ignore[union-attr]
        waiting = asyncio.create_task(second.chat(user=others))
        await until(lambda: second.parts.admission.num_queued("math") == 1)
        for worker in (first["math-0"], first["math-1"]):
            for _ in range(20):
                worker.gate.release()
        assert (await waiting).status == 200
        for call in held:
            (await call).close()


@in_loop
async def test_a_router_that_stops_gets_no_further_sessions() -> None:
    async with two_routers() as (first, second):
        session = session_of(second.url, first.url)
        drain = asyncio.create_task(second.gateway.drain())
        assert (await first.chat(user=session)).status == 200  # it may not have heard of it yet
        assert _calls(first) == 1
        await sees_others(first, "draining")
        await drain
        assert (await first.chat(user=session)).status == 200
        assert (await first.state())["routers"]["forwarded"] <= 1


@in_loop
async def test_routers_with_other_keys_or_other_weights_do_without_each_other_and_say_why() -> None:
    async with two_routers() as (first, _), contextlib.AsyncExitStack() as stack:
        peers = first.gateway.peers
        assert peers is not None
        known = first.parts.settings
        seen: dict[str, Any] = {"workers": first.workers, "http": first.http}
        for change, reason in (({"admin_key": "another"}, "403"), ({"fingerprint": "sha256:x"}, "prefill module")):
            stranger = await start_router(stack, replace(known, port=free_port(), **change), **seen)
            others = stranger.gateway.peers
            assert others is not None
            await until(lambda known=others: all(peer.state == "down" for peer in known))
            assert all(reason in peer.reason for peer in others)
            await stranger.is_up("math-0", "math-1", "p0")
            assert (await stranger.chat(user="anybody")).status == 200


@in_loop
async def test_a_router_that_has_not_found_its_workers_yet_is_passed_over() -> None:
    async with two_routers() as (first, second):
        session = session_of(second.url, first.url)
        peers = first.gateway.peers
        assert peers is not None
        for worker_id in ("math-0", "math-1"):
            worker = second.parts.pool.get(worker_id)
            assert worker is not None
            await second.gateway._forget(worker, "it is not known yet")
        await until(lambda: not any(peer.can_answer("math") for peer in peers))
        assert (await first.chat(user=session)).status == 200
        assert (_calls(first), _calls(second)) == (1, 0)
        for worker_id in ("math-0", "math-1"):
            second.gateway.join(second[worker_id].spec)
        await until(lambda: all(peer.can_answer("math") for peer in peers))
        assert (await first.chat(user=session)).status == 200
        assert (_calls(first), _calls(second)) == (1, 1)


@in_loop
async def test_a_flush_is_told_to_the_others() -> None:
    async with two_routers() as (first, second):
        await second.chat(user=session_of(second.url, first.url))
        assert second.parts.chooser.index.num_nodes == 1
        async with first.http.post(f"{first.url}/flush_cache") as reply:
            assert reply.status == 200
        assert second.parts.chooser.index.num_nodes == 0


@in_loop
async def test_each_router_shows_all_of_them_and_counts_its_own_calls() -> None:
    async with two_routers() as (first, second):
        session = session_of(second.url, first.url)
        await first.chat(user=session)
        await until(lambda: second.gateway.num_running == 0)
        for running, num_requests, num_forwarded in ((first, 0, 1), (second, 1, 0)):
            async with running.http.get(f"{running.url}/deployment/state") as reply:
                state = await reply.json()
            rows = {worker["url"]: worker for worker in state["workers"] if worker["role"] == "router"}
            assert {url: row["state"] for url, row in rows.items()} == {first.url: "up", second.url: "up"}
            assert rows[running.url]["id"] == "router"
            assert state["forwarded"] == num_forwarded
            assert sum(module["requests"] for module in state["modules"]) == num_requests
            async with running.http.get(f"{running.url}/metrics") as reply:
                assert f"prefillshare_forwarded_total {num_forwarded}.0" in await reply.text()


@in_loop
async def test_a_router_alone_knows_nothing_of_others() -> None:
    async with deployment() as running:
        assert running.gateway.peers is None
        assert "routers" not in await running.state()
        for path in ("/deployment/state", "/metrics"):
            async with running.http.get(running.url + path) as reply:
                assert "forwarded" not in await reply.text()
        async with running.http.get(running.url + PEER_PATH) as reply:
            assert reply.status == 403


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peers": ("10.0.0.1:30000",)}, "'10.0.0.1:30000' is not the address of a router"),
        ({"address": "http://a/b"}, "'http://a/b' is not the address of a router"),
        ({"peers": ("http://10.0.0.1:1",), "host": "0.0.0.0"}, "no address at which other routers reach this one"),
        ({"peers": ("http://10.0.0.1:1",), "admin_key": None}, "admin key"),
    ],
)
def test_peers_that_cannot_be_used_are_named(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        RouterSettings(**{"base_model": BASE, "admin_key": "a", **settings})


def test_a_router_of_another_version_is_named_whatever_its_report_lacks_or_has_besides() -> None:
    told = Report(
        routers=("http://a:1",),
        prefill_module="base",
        is_draining=False,
        models=("math",),
        running=1,
        queued=0,
        is_moving=False,
        at_workers={"p0": Load(calls=1, tokens=2.0, working=1)},
    ).as_dict()
    others = [{key: value for key, value in told.items() if key != left_out} for left_out in told]
    for other in (*others, {**told, "at_workers": {"p0": [1, 2.0]}}, {**told, "at_workers": {"p0": [1, 2.0, 1, 1]}}):
        with pytest.raises(ConfigError, match="install the same version"):
            read_report(other)
    assert read_report({**told, "new": 1}).as_dict() == told


def test_its_own_address_may_stand_among_the_peers() -> None:
    urls = ("http://10.0.0.1:30000/", "http://10.0.0.2:30000")
    for address in (None, "http://10.0.0.1:30000"):
        settings = RouterSettings(base_model=BASE, admin_key="a", host="10.0.0.1", address=address, peers=urls)
        assert settings.other_routers == ("http://10.0.0.2:30000",)
