"""The door of an engine counts a tenant's calls: each until its answer is sent, or its client has gone."""

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prefillshare.tenants.roster import Roster
from sglang_patches.http.tenants import TenantDoor
from tests.support.tenants import OPERATOR, bearer, write_tenants

SERVER_ARGS: Any = SimpleNamespace(api_key=OPERATOR, admin_api_key=None)
Message = MutableMapping[str, Any]
START = {"type": "http.response.start", "status": 200, "headers": []}


def scope_of(key: str) -> Message:
    headers = [(name.lower().encode(), value.encode()) for name, value in bearer(key).items()]
    return {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}


async def receive() -> Message:
    return await asyncio.Future()


def test_a_stream_counts_until_its_last_part_however_long_the_application_stays(tmp_path: Path) -> None:
    keys = write_tenants(tmp_path / "tenants.toml", acme={"concurrent": 1})
    roster = Roster(tmp_path / "tenants.toml")
    account = roster.get("acme")
    assert account is not None

    async def run() -> None:
        may_return, told = asyncio.Event(), []

        async def app(scope: Message, receive: Any, send: Any) -> None:
            await send(START)
            for is_last in (False, True):
                await send({"type": "http.response.body", "body": b"x", "more_body": not is_last})
            await may_return.wait()  # as SGLang does behind every stream

        async def send(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message["more_body"]
            told.append((message.get("status"), account.num_running, is_last))

        door = TenantDoor(app, roster, SERVER_ARGS)
        calls = []
        for _ in range(2):  # the second as soon as the first has its answer
            calls.append(asyncio.create_task(door(scope_of(keys["acme"]), receive, send)))
            while not told or not told[-1][2]:
                await asyncio.sleep(0)
            assert told == [(200, 1, False), (None, 1, False), (None, 0, True)]
            told.clear()
        may_return.set()
        await asyncio.gather(*calls)
        assert account.num_running == 0

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_stream_that_its_client_left_counts_until_the_application_has_left_it(tmp_path: Path) -> None:
    keys = write_tenants(tmp_path / "tenants.toml", acme={"concurrent": 1})
    roster = Roster(tmp_path / "tenants.toml")
    account = roster.get("acme")
    assert account is not None
    counted = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        counted.append(account.num_running)

    async def send(message: Message) -> None:
        pass

    asyncio.run(asyncio.wait_for(TenantDoor(app, roster, SERVER_ARGS)(scope_of(keys["acme"]), receive, send), 60))
    assert (counted, account.num_running) == ([1], 0)
