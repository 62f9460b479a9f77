"""Tenants at the router: who is let in, how far, and what keeps them apart; over small workers."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from prefillshare.naming.alias import read_aliases
from prefillshare.observe.document import no_tokens
from prefillshare.observe.exposition import exposition
from prefillshare.observe.observer import Observer
from prefillshare.observe.state import deployment_state, worker_state
from tests.routing.routers import session_of, two_routers
from tests.routing.workers import Deployment, deployment, in_loop, until
from tests.support.tenants import OPERATOR, bearer, write_tenants

CHAT: dict[str, Any] = {"model": "math", "messages": [{"role": "user", "content": "hello there"}]}
ANSWER = {"object": "response", "status": "completed", "output": [{"type": "message", "role": "assistant"}]}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "math", "prompt": "hello"},
    "/generate": {"lora_path": "math", "text": "hello"},
    "/v1/messages": CHAT | {"max_tokens": 4},
    "/v1/responses": {"model": "math", "input": "hello"},
    "/modules/math/generate": {"text": "hello"},
}


@asynccontextmanager
async def served(
    path: Path, router: Mapping[str, Any] | None = None, **tenants: Mapping[str, Any]
) -> AsyncIterator[tuple[Deployment, dict[str, str]]]:
    """A router with these settings that knows these tenants, and their keys."""
    keys = write_tenants(path / "tenants.toml", **tenants)
    told = {"api_key": OPERATOR, "admin_key": "the-admins", "tenants_file": path / "tenants.toml"}
    async with deployment(decode=("math", "code"), settings=told, **(router or {})) as running:
        running["math-0"].answer = ANSWER
        yield running, keys


async def ask(
    running: Deployment, method: str, path: str, key: str | None, body: Any = None, **headers: str
) -> tuple[int, Any, Mapping[str, str]]:
    """Status, what was told, and headers."""
    sent = headers | ({} if key is None else bearer(key))
    async with running.http.request(method, running.url + path, json=body, headers=sent) as reply:
        text = await reply.text()
        told = json.loads(text) if reply.content_type == "application/json" else text
        return reply.status, told, reply.headers


async def post(running: Deployment, path: str, key: str | None, body: Any, **headers: str) -> tuple[int, Any]:
    status, told, _ = await ask(running, "POST", path, key, body, **headers)
    return status, told


@in_loop
async def test_nobody_without_a_key_and_nobody_with_a_wrong_one(tmp_path: Path) -> None:
    async with served(tmp_path, acme={}) as (running, keys):
        for path, body in PATHS.items():
            for key in (None, "wrong", keys["acme"] + "x", keys["acme"][:-1]):
                status, told = await post(running, path, key, body)
                assert status == 401
                assert told["error"]["type"] == "authentication_error"
        assert running["math-0"].bodies == []
        assert running.gateway.tenants.num_unknown_keys == 4 * len(PATHS)
        assert (await ask(running, "GET", "/health", None))[0] == 200


@in_loop
async def test_every_door_puts_a_call_into_the_tenants_namespace_and_the_operators_into_none(tmp_path: Path) -> None:
    async with served(tmp_path, acme={}, other={}, common={"shared": True}) as (running, keys):
        for path, body in PATHS.items():
            seen = []
            for key in (keys["acme"], keys["other"], keys["common"], OPERATOR):
                status, _ = await post(running, path, key, body)
                assert status == 200
                prefill, decode = running["p0"].bodies.pop(), running["math-0"].bodies.pop()
                assert prefill.get("extra_key") == decode.get("extra_key")
                assert not {OPERATOR, *keys.values()} & {*map(str, prefill.values()), *map(str, decode.values())}
                seen.append(prefill.get("extra_key"))
            assert seen[2:] == [None, None]
            assert len({*seen[:2]}) == 2
            assert None not in seen[:2]


@in_loop
async def test_the_prefix_index_and_sessions_of_tenants_are_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, acme={}, other={}) as (running, keys):
        seen = []
        choose = running.parts.chooser.choose
        monkeypatch.setattr(running.parts.chooser, "choose", lambda *asked: seen.append(asked[0]) or choose(*asked))
        for key in (keys["acme"], keys["other"], OPERATOR):
            await post(running, "/v1/chat/completions", key, CHAT, **{"X-Session-ID": "same"})
        assert [demand.session for demand in seen] == ["acme/same", "other/same", "same"]
        first, second, third = (demand.prompts[0] for demand in seen)
        assert len({first[:40], second[:40], third[:40]}) == 3
        assert running.gateway.proxy.counters.matched_bytes == 0


@in_loop
async def test_a_module_that_is_not_the_tenants_is_refused_and_hidden(tmp_path: Path) -> None:
    async with served(tmp_path, acme={"modules": ["math"]}, other={}) as (running, keys):
        for model in ("code", "no-such"):
            status, told = await post(running, "/v1/chat/completions", keys["acme"], CHAT | {"model": model})
            assert (status, told["error"]["code"]) == (403, "model_not_found")
            assert "math" in told["error"]["message"]
        status, told = await post(running, "/v1/messages", keys["acme"], PATHS["/v1/messages"] | {"model": "code"})
        assert (status, told["type"], told["error"]["type"]) == (403, "error", "permission_error")
        assert (await post(running, "/modules/code/generate", keys["acme"], {"text": "a"}))[0] == 403
        assert (await post(running, "/tokenize", keys["acme"], {"model": "code", "prompt": "a"}))[0] == 403
        for name, seen in (("acme", ["math"]), ("other", ["math", "code"])):
            _, told, _ = await ask(running, "GET", "/v1/models", keys[name])
            assert [card["id"] for card in told["data"]] == seen
            _, told, _ = await ask(running, "GET", "/model_info", keys[name])
            assert told["decode_modules"] == seen
        status, told, _ = await ask(running, "GET", "/v1/models/code", keys["acme"])
        assert status == 404
        assert "code" not in told["error"]["message"].removeprefix("model 'code'")
        assert running["code-1"].bodies == []


@in_loop
async def test_doors_of_the_operator_stay_shut(tmp_path: Path) -> None:
    doors = [("GET", "/metrics"), ("GET", "/deployment/state"), ("GET", "/workers"), ("GET", "/router/state")]
    async with served(tmp_path, acme={}) as (running, keys):
        for method, path in (*doors, ("POST", "/flush_cache"), ("GET", "/server_info"), ("GET", "/router/peer")):
            assert (await ask(running, method, path, keys["acme"]))[0] == 403
        for method, path in (("POST", "/workers"), ("DELETE", "/workers/p0"), ("PUT", "/router/roles")):
            assert (await ask(running, method, path, keys["acme"], {}))[0] == 401
        for method, path in doors:
            assert (await ask(running, method, path, OPERATOR))[0] == 200


@in_loop
async def test_a_tenants_limits_are_its_own(tmp_path: Path) -> None:
    limits = {"acme": {"calls_per_s": 0.01}, "other": {"concurrent": 1}, "third": {"tokens_per_min": 50}}
    async with served(tmp_path, **limits) as (running, keys):
        assert (await post(running, "/v1/chat/completions", keys["acme"], CHAT))[0] == 200
        status, told, headers = await ask(running, "POST", "/v1/chat/completions", keys["acme"], CHAT)
        assert (status, told["error"]["type"], told["error"]["code"]) == (429, "requests", "rate_limit_exceeded")
        assert 99 <= int(headers["Retry-After"]) <= 100
        status, told, headers = await ask(running, "POST", "/v1/messages", keys["acme"], PATHS["/v1/messages"])
        assert (status, told["error"]["type"], "Retry-After" in headers) == (429, "rate_limit_error", True)
        assert (await ask(running, "GET", "/v1/models", keys["acme"]))[0] == 200

        running["p0"].prefill_s = 30
        held = asyncio.create_task(post(running, "/v1/chat/completions", keys["other"], CHAT))
        await until(lambda: running["p0"].running)
        assert (await post(running, "/v1/completions", keys["other"], PATHS["/v1/completions"]))[0] == 429
        held.cancel()
        await until(lambda: running.gateway.tenants.get("other").num_running == 0)
        running["p0"].prefill_s = 0

        for expected in (200, 200, 429):
            status, told = await post(running, "/v1/chat/completions", keys["third"], CHAT)
            assert status == expected
            await until(lambda: running.gateway.tenants.get("third").num_running == 0)
        assert told["error"]["type"] == "tokens"


@pytest.mark.parametrize("wish", [None, {"include_usage": True}])
@in_loop
async def test_tokens_of_a_stream_are_counted_and_shown_to_who_asked(tmp_path: Path, wish: Any) -> None:
    usage = '{"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":7}}'
    async with served(tmp_path, acme={}) as (running, keys):
        running["math-0"].pieces = ('{"choices":[{"delta":{"content":"\\"usage\\":{"}}]}', usage)
        body = CHAT | {"stream": True} | ({} if wish is None else {"stream_options": wish})
        status, told = await post(running, "/v1/chat/completions", keys["acme"], body)
        assert status == 200
        assert (usage in told) == (wish is not None)
        assert told.endswith("data: [DONE]\n\n")
        assert running["math-0"].bodies[0]["stream_options"] == {"include_usage": True}
        assert "stream_options" not in running["p0"].bodies[0]
        (told,) = running.gateway.tenants.as_dict({})["items"]
        assert (told["prompt_tokens"], told["generated_tokens"]) == (40, 7)


@in_loop
async def test_a_stream_that_its_client_leaves_costs_what_was_sent(tmp_path: Path) -> None:
    async with served(tmp_path, acme={}) as (running, keys):
        running["math-0"].gate = gate = asyncio.Semaphore(2)
        body, headers = CHAT | {"stream": True}, bearer(keys["acme"])
        async with running.http.post(f"{running.url}/v1/chat/completions", json=body, headers=headers) as reply:
            await reply.content.readuntil(b"two\n\n")
        account = running.gateway.tenants.get("acme")
        await until(lambda: account.num_running == 0)
        assert account.stats.generated_tokens == 2
        gate.release()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("name", ["acme", "operator"])
@in_loop
async def test_a_stream_that_breaks_within_an_event_is_cut(tmp_path: Path, path: str, name: str) -> None:
    async with served(tmp_path, acme={}) as (running, keys):
        worker = running["math-0"]
        # A whole event and half of the next one, which whoever reads whole events keeps back.
        worker.pieces, worker.terminator, worker.break_after = ("one\n\ndata: tw", "o"), "", 1
        worker.pause_s = 0.05
        body, headers = PATHS[path] | {"stream": True}, bearer(keys.get(name, OPERATOR))
        async with running.http.post(running.url + path, json=body, headers=headers) as reply:
            with pytest.raises(aiohttp.ClientPayloadError):
                await reply.read()


@in_loop
async def test_a_response_is_its_tenants_alone(tmp_path: Path) -> None:
    body = PATHS["/v1/responses"]
    async with served(tmp_path, acme={}, other={}) as (running, keys):
        _, first = await post(running, "/v1/responses", keys["acme"], body)
        kept = f"/v1/responses/{first['id']}"
        for key in (keys["other"], OPERATOR):
            assert (await ask(running, "GET", kept, key))[0] == 404
            assert (await ask(running, "GET", f"{kept}/input_items", key))[0] == 404
            assert (await ask(running, "DELETE", kept, key))[0] == 404
            more = body | {"previous_response_id": first["id"]}
            assert (await post(running, "/v1/responses", key, more))[0] == 404
        assert (await ask(running, "GET", kept, keys["acme"]))[0] == 200


@in_loop
async def test_numbers_are_told_by_tenant_and_no_key_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with served(tmp_path, acme={"modules": ["math"]}) as (running, keys):
        running["p0"].hits = {"own_hit_tokens": 3, "cross_hit_tokens": 5}
        await post(running, "/v1/chat/completions", keys["acme"], CHAT)
        # The prefill worker may report later than the answer comes, and in the call that fails sooner than that does.
        await until(lambda: running.gateway.tenants.get("acme").as_dict({})["prompt_tokens"] == 40)
        await post(running, "/v1/chat/completions", keys["acme"], CHAT | {"model": "code"})
        running["p0"].prefill_s, running["math-0"].status = 60.0, 500
        _, failed = await post(running, "/v1/chat/completions", keys["acme"], CHAT)
        await post(running, "/v1/chat/completions", "wrong-key", CHAT)
        _, state, _ = await ask(running, "GET", "/deployment/state", OPERATOR)
        (told,) = state["tenants"]["items"]
        assert (told["calls"], told["prompt_tokens"], told["cached_tokens"]) == (3, 40, 8)
        assert (told["refused"]["module"], state["tenants"]["unknown_keys"]) == (1, 1)
        _, metrics, _ = await ask(running, "GET", "/metrics", OPERATOR)
        assert 'prefillshare_tenant_cached_tokens_total{tenant="acme"} 8.0' in metrics
        assert 'prefillshare_tenant_refusals_total{reason="module",tenant="acme"} 1.0' in metrics
        everything = json.dumps([state, metrics, failed]) + caplog.text
        for key in (keys["acme"], "wrong-key"):
            assert key not in everything


@in_loop
async def test_a_path_that_only_means_another_one_opens_no_door_by_its_key(tmp_path: Path) -> None:
    async with served(tmp_path, acme={}) as (running, keys):
        for key in (keys["acme"], OPERATOR, "the-admins"):
            for method, path in (("PUT", "/modules/x%2Fgenerate"), ("POST", "/modules/x%2fgenerate")):
                url = URL(running.url + path, encoded=True)
                async with running.http.request(method, url, json={"path": "/"}, headers=bearer(key)) as reply:
                    assert (reply.status, "there is no /modules/x/generate here" in await reply.text()) == (404, True)
        assert (await ask(running, "PUT", "/modules/x", keys["acme"], {"path": "/"}))[0] == 401


@in_loop
async def test_an_alias_is_the_tenants_where_all_that_it_means_is(tmp_path: Path) -> None:
    meanings = {"latest": "math", "either": {"math": 0.5, "code": 0.5}, "auto": {"default": "latest", "rules": []}}
    async with served(tmp_path, acme={"modules": ["math"]}) as (running, keys):
        running.parts.aliases.update(read_aliases(meanings))
        running["p0"].answer = {"tokens": [1], "count": 1}
        for name, status in (("latest", 200), ("auto", 200), ("either", 403), ("code", 403), ("no-such", 403)):
            calls = [
                post(running, "/v1/chat/completions", keys["acme"], CHAT | {"model": name}),
                post(running, f"/modules/{name}/generate", keys["acme"], {"text": "hello"}),
            ]
            for told, answer in await asyncio.gather(*calls):
                assert (told, name) == (status, name), answer
                assert status == 200 or "code" not in answer["error"]["message"].replace("model 'code'", "")
            # The workers here tokenize nothing: what they are asked is passed on as 404.
            told, _ = await post(running, "/tokenize", keys["acme"], {"model": name, "prompt": "a"})
            assert (told == 403) == (status == 403)
        seen = {(body.get("model"), body.get("lora_path")) for body in running["math-0"].bodies}
        assert seen == {("math", None), (None, None)}


@in_loop
async def test_calls_in_the_background_that_come_together_are_counted_as_they_come(tmp_path: Path) -> None:
    async with served(tmp_path, acme={"concurrent": 2}) as (running, keys):
        running["p0"].prefill_s = 30
        body = PATHS["/v1/responses"] | {"background": True}
        asked = [post(running, "/v1/responses", keys["acme"], body) for _ in range(12)]
        statuses = [status for status, _ in await asyncio.gather(*asked)]
        account = running.gateway.tenants.get("acme")
        assert account.num_running == statuses.count(200) == 2
        assert statuses.count(429) == 10
        running["p0"].prefill_s = 0
        running.gateway.tenants.get("acme").set_tenant(replace(account.tenant, concurrent=None))


@in_loop
async def test_a_key_comes_in_every_form_and_one_counts(tmp_path: Path) -> None:
    async with served(tmp_path, acme={"modules": ["math"]}, other={}) as (running, keys):
        acme, other = keys["acme"], keys["other"]
        forms = [
            ({"X-Api-Key": acme}, 1),
            ({"X-Api-Key": f" {acme} "}, 1),
            ({"X-Api-Key": acme, "Authorization": f"Bearer {other}"}, 1),
            ({"X-Api-Key": "", "Authorization": f"bearer  {acme}"}, 1),
            ({"Authorization": f"Basic {acme}"}, None),
            ({"Authorization": acme}, None),
            ({"X-Api-Key": acme + "\u00e9"}, None),
        ]
        for path in ("/v1/chat/completions", "/v1/messages"):
            for headers, number in forms:
                async with running.http.get(f"{running.url}/v1/models", headers=headers) as reply:
                    told = await reply.json()
                    found = len(told["data"]) if reply.status == 200 else None
                async with running.http.post(running.url + path, json=PATHS[path], headers=headers) as reply:
                    assert (found, reply.status) == ((number, 200) if number else (None, 401)), (path, headers)


@in_loop
async def test_kv_of_tenants_is_told_by_workers_and_named_by_the_router(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"acme": {}, "other": {}, "friend": {"shared": True}}
    async with served(tmp_path, **limits) as (running, _):
        mark = running.gateway.tenants.get("acme").mark.removesuffix(":")
        for worker, tokens in (("p0", 70), ("math-0", 5)):
            held = [{"owner": mark, "tokens": tokens}, {"owner": "tenant:" + "0" * 32, "tokens": 9}]
            running[worker].told = worker_document(worker) | {"held": held}
        _, state, _ = await ask(running, "GET", "/deployment/state", OPERATOR)
        told = {tenant["name"]: tenant["kv_tokens"] for tenant in state["tenants"]["items"]}
        assert told == {"acme": 75, "other": 0, "friend": None}
        assert mark not in json.dumps(state)
        _, metrics, _ = await ask(running, "GET", "/metrics", OPERATOR)
        assert 'prefillshare_tenant_kv_tokens{tenant="acme"} 75.0' in metrics
        assert 'prefillshare_tenant_kv_tokens{tenant="friend"}' not in metrics
        running["math-0"].told = None  # it is busy, and believed to have what it told last
        _, state, _ = await ask(running, "GET", "/deployment/state", OPERATOR)
        assert state["tenants"]["items"][0]["kv_tokens"] == 75


def worker_document(name: str) -> dict[str, Any]:
    """What a worker tells that has done nothing."""
    workers = [worker_state(id=name, role="prefill", module=None, url="", pid=1, state="up", restarts=0,
        totals=no_tokens(), running=0, queued=0, kv=None, handoff=None)]  # fmt: skip
    return dict(
        deployment_state(
            Observer(), name="d", topology="disaggregated", prefill_module="base", modules=(), workers=workers
        )
    )


@in_loop
async def test_a_changed_file_holds_at_once_and_calls_under_way_end(tmp_path: Path) -> None:
    async with served(tmp_path, acme={}) as (running, keys):
        running["p0"].prefill_s = 0.2
        held = asyncio.create_task(post(running, "/v1/chat/completions", keys["acme"], CHAT))
        await until(lambda: running["p0"].running)
        new = write_tenants(tmp_path / "tenants.toml", other={})
        (tmp_path / "tenants.toml").write_text((tmp_path / "tenants.toml").read_text().replace("acme", "gone"))
        await until(lambda: running.gateway.tenants.get("gone") is not None)
        assert (await held)[0] == 200
        assert (await post(running, "/v1/chat/completions", new["other"], CHAT))[0] == 200


@in_loop
async def test_a_router_without_tenants_has_no_line_of_them() -> None:
    async with deployment(settings={"api_key": OPERATOR}) as running:
        _, state, _ = await ask(running, "GET", "/deployment/state", OPERATOR)
        assert "tenants" not in state
        assert b"tenant" not in exposition(state)
        await post(running, "/v1/chat/completions", OPERATOR, CHAT | {"stream": True})
        assert "stream_options" not in running["math-0"].bodies[0]


@in_loop
async def test_a_call_that_is_passed_on_is_the_tenants_there_and_counted_once(tmp_path: Path) -> None:
    file = tmp_path / "tenants.toml"
    keys = write_tenants(file, acme={"calls_per_s": 0.01}, other={})
    async with two_routers(settings={"api_key": OPERATOR, "tenants_file": file}) as routers:
        owner, other = routers
        named = session_of(owner.url, other.url, start="acme/").removeprefix("acme/")
        status, _ = await post(other, "/v1/chat/completions", keys["acme"], CHAT, **{"X-Session-ID": named})
        assert status == 200
        assert other.gateway.peers.num_forwarded == 1
        (body,) = owner["p0"].bodies + owner["p1"].bodies
        assert body["extra_key"].startswith("tenant:")
        states = [router.gateway.tenants.get("acme") for router in routers]
        assert [state.stats.calls for state in states] == [0, 1]
        assert [state.stats.prompt_tokens for state in states] == [40, 0]
        status, _ = await post(other, "/v1/chat/completions", keys["acme"], CHAT, **{"X-Session-ID": named})
        assert status == 429
        forged = {"X-PrefillShare-Tenant": "acme"}
        status, _ = await post(owner, "/v1/chat/completions", "wrong", CHAT, **forged)
        assert status == 401
