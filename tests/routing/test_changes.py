"""Aliases at the router, and what it asks of its launcher about modules, over small workers."""

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import pytest

from prefillshare.naming.alias import read_aliases
from prefillshare.routing.changes.desk import ChangeDesk
from prefillshare.routing.errors import NotFoundError
from tests.routing.workers import Deployment, deployment, in_loop, until

ADMIN = {"Authorization": "Bearer admin"}
KEYS: dict[str, Any] = {"admin_key": "admin"}


async def ask(running: Deployment, method: str, path: str, body: object = None, key: bool = True) -> tuple[int, Any]:
    """One request to the router."""
    headers = ADMIN if key else {}
    async with running.http.request(method, running.url + path, json=body, headers=headers) as reply:
        return reply.status, await reply.json()


async def asked_module(running: Deployment, **fields: Any) -> str:
    """The module that the decode leg of a chat was sent to."""
    async with await running.chat("m", **fields) as reply:
        assert reply.status == 200, await reply.text()
    return str(running["math-0"].bodies[-1]["model"] if running["math-0"].bodies else "")


@in_loop
async def test_an_alias_is_a_name_of_a_module_everywhere() -> None:
    async with deployment(settings={**KEYS, "aliases": read_aliases({"m": "math"})}) as running:
        assert await asked_module(running) == "math"
        assert (await ask(running, "GET", "/aliases"))[1] == {"aliases": {"m": "math"}}
        cards = (await ask(running, "GET", "/v1/models"))[1]["data"]
        assert [(card["id"], card.get("alias_of")) for card in cards][-1] == ("m", {"math": 1.0})
        assert (await ask(running, "GET", "/v1/models/m"))[1]["root"] == "math"
        generate = {"text": "hi", "sampling_params": {"max_new_tokens": 2}}
        assert (await ask(running, "POST", "/modules/m/generate", generate))[0] == 200
        status, told = await ask(running, "POST", "/v1/chat/completions", {"model": "n", "messages": [{}]})
        assert status == 404
        assert "aliases: m" in told["error"]["message"]


@in_loop
async def test_aliases_change_while_calls_come_and_outlive_the_router(tmp_path: Path) -> None:
    settings = {**KEYS, "aliases_file": tmp_path / "aliases.json"}
    async with deployment(settings=settings) as running:
        assert (await ask(running, "PUT", "/aliases/m", {"module": "math"}))[0] == 200
        assert await asked_module(running) == "math"
        assert (
            "is also the name of a module"
            in (await ask(running, "PUT", "/aliases/math", {"module": "math"}))[1]["error"]["message"]
        )
        assert (await ask(running, "PUT", "/aliases/x", {"module": "nope"}))[0] == 400
        assert (await ask(running, "PUT", "/aliases/x", {"weights": {"math": "much"}}))[0] == 400
        assert (await ask(running, "DELETE", "/aliases/x"))[0] == 404
        status, told = await ask(running, "DELETE", "/modules/math")
        assert status == 409
        assert "alias 'm' means module 'math'" in told["error"]["message"]
    async with deployment(settings=settings) as again:
        assert (await ask(again, "GET", "/aliases"))[1] == {"aliases": {"m": "math"}}
        assert (await ask(again, "DELETE", "/aliases/m"))[1] == {"aliases": {}}
    async with deployment(settings={**settings, "aliases": read_aliases({"m": "math"})}) as third:
        assert (await ask(third, "GET", "/aliases"))[1] == {"aliases": {}}


@in_loop
async def test_changes_want_the_admin_key() -> None:
    async with deployment(settings={**KEYS, "api_key": "key"}) as running:
        for method, path in (
            ("PUT", "/modules/x"),
            ("DELETE", "/modules/math"),
            ("POST", "/modules/math/reload"),
            ("PUT", "/aliases/x"),
            ("DELETE", "/aliases/x"),
            ("PUT", "/router/changes"),
        ):
            headers = {"Authorization": "Bearer key"}
            async with running.http.request(method, running.url + path, json={}, headers=headers) as reply:
                assert reply.status == 401, (method, path)
    async with deployment() as running:
        assert (await ask(running, "PUT", "/modules/x", {}, key=False))[0] == 403


@in_loop
async def test_a_router_without_a_launcher_says_who_starts_workers() -> None:
    async with deployment(settings=KEYS) as running:
        status, told = await ask(running, "PUT", "/modules/late", {"path": "/models/late"})
        assert status == 409
        assert "use `prefillshare worker --join`" in told["error"]["message"]


@in_loop
async def test_a_router_without_a_launcher_forgets_a_module_whose_workers_have_left() -> None:
    """And knows it again when a worker of it comes."""
    async with deployment(decode=("math", "code"), settings=KEYS) as running:
        status, told = await ask(running, "DELETE", "/modules/code")
        assert (status, "stop the workers" in told["error"]["message"]) == (409, True)
        spec = next(worker.spec for worker in running.gateway.parts.pool if worker.spec.module == "code")
        assert (await ask(running, "DELETE", f"/workers/{spec.id}"))[0] == 200
        running.gateway.parts.pool.declare("code")  # as by the deployment file
        assert (await ask(running, "GET", "/v1/models/code"))[0] == 200
        assert await ask(running, "DELETE", "/modules/code") == (200, {"name": "code"})
        assert (await ask(running, "GET", "/v1/models/code"))[0] == 404
        running.gateway.join(spec)
        assert (await ask(running, "GET", "/v1/models/code"))[0] == 200


@in_loop
async def test_the_launcher_is_asked_and_its_answer_is_the_callers(tmp_path: Path) -> None:
    async with deployment(settings={**KEYS, "changes_dir": tmp_path}) as running:
        asked = asyncio.create_task(ask(running, "PUT", "/modules/late", {"path": "/models/late"}))
        await until(lambda: bool(list(tmp_path.glob("*.wish"))))
        [file] = tmp_path.glob("*.wish")
        wish = json.loads(file.read_text())
        assert (wish["kind"], wish["name"], wish["table"]) == ("add", "late", {"path": "/models/late"})
        assert (await ask(running, "PUT", "/router/changes", {"id": "other", "result": {}}))[0] == 404
        told = {"id": wish["id"], "result": {"name": "late", "path": "/models/late"}}
        assert (await ask(running, "PUT", "/router/changes", told))[0] == 200
        assert await asked == (200, {"name": "late", "path": "/models/late"})
        assert (await ask(running, "GET", "/v1/models/late"))[0] == 200  # without a worker, its calls wait for one
        file.unlink()

        refused = asyncio.create_task(ask(running, "DELETE", "/modules/late"))
        await until(lambda: bool(list(tmp_path.glob("*.wish"))))
        wish = json.loads(next(tmp_path.glob("*.wish")).read_text())
        assert (await ask(running, "GET", "/v1/models/late"))[0] == 404
        await ask(running, "PUT", "/router/changes", {"id": wish["id"], "error": "no room", "status": 400})
        status, answer = await refused
        assert (status, answer["error"]["message"]) == (400, "no room")
        assert (await ask(running, "GET", "/v1/models/late"))[0] == 200


@in_loop
async def test_a_removal_whose_client_leaves_ends_as_the_launcher_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with deployment(decode=("math", "code"), settings={**KEYS, "changes_dir": tmp_path}) as running:
        leaving = asyncio.create_task(ask(running, "DELETE", "/modules/code"))
        await until(lambda: bool(list(tmp_path.glob("*.wish"))))
        wish = json.loads(next(tmp_path.glob("*.wish")).read_text())
        leaving.cancel()
        await until(lambda: not running.gateway.desk.lock.locked())  # the router has seen it leave
        assert (await ask(running, "GET", "/v1/models/code"))[0] == 404
        told = {"id": wish["id"], "error": "it still has calls", "status": 409}
        assert (await ask(running, "PUT", "/router/changes", told))[0] == 200
        assert (await ask(running, "GET", "/v1/models/code"))[0] == 200
    gc.collect()  # a task whose exception nobody has seen says so when it goes
    said = [record.message for record in caplog.records if "it still has calls" in record.message]
    assert said == ["a change whose caller had left was not made: it still has calls"]


@in_loop
async def test_an_answer_for_an_earlier_life_of_the_router_is_nobodys(tmp_path: Path) -> None:
    # Two routers that count from one, in one process: as a router that was started again with the number of the first.
    first, second = ChangeDesk(folder=tmp_path), ChangeDesk(folder=tmp_path)
    asked = [asyncio.create_task(desk.ask("remove", "math")) for desk in (first, second)]
    await until(lambda: len(list(tmp_path.glob("*.wish"))) == 2)
    wishes = {json.loads(file.read_text())["id"] for file in tmp_path.glob("*.wish")}
    (early,) = wishes & first._waiting.keys()
    with pytest.raises(NotFoundError):
        second.hear({"id": early, "result": {}})
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


@in_loop
async def test_where_nothing_can_be_written_nothing_changes_and_the_reason_is_told(tmp_path: Path) -> None:
    gone, aliases = tmp_path / "gone", read_aliases({"m": "math"})
    settings = {**KEYS, "changes_dir": gone, "aliases_file": gone / "aliases.json", "aliases": aliases}
    async with deployment(settings=settings) as running:
        for method, path, body in (
            ("PUT", "/aliases/m2", {"module": "math"}),
            ("DELETE", "/aliases/m", None),
            ("PUT", "/modules/late", {"path": "/models/late"}),
        ):
            status, told = await ask(running, method, path, body)
            assert (status, "nothing has changed" in told["error"]["message"]) == (507, True), told
        assert (await ask(running, "GET", "/aliases"))[1] == {"aliases": {"m": "math"}}


@in_loop
async def test_a_session_stays_with_its_module() -> None:
    aliases = read_aliases({"m": {"math": 0.5, "code": 0.5}})
    async with deployment(decode=("math", "code"), settings={**KEYS, "aliases": aliases}) as running:
        for number in range(12):
            before = len(running["math-0"].bodies)
            for _ in range(2):
                async with await running.chat("m", user=f"user-{number}") as reply:
                    assert reply.status == 200, await reply.text()
            assert len(running["math-0"].bodies) - before in (0, 2)
        assert 0 < len(running["math-0"].bodies) < 24
