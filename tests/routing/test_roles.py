"""The router's part in moves: it looks, decides, drains, offers an order, and hears what became of it."""

import asyncio
from dataclasses import asdict, replace
from typing import Any

import pytest

from prefillshare.config import Limits, Roles
from prefillshare.routing.roles import conductor
from tests.routing.routers import ADMIN_KEY, two_routers
from tests.routing.workers import Deployment, SmallWorker, deployment, in_loop, until

ADMIN = {"Authorization": "Bearer a"}
ROLES = Roles(
    follow_load=True, interval_s=0.02, window_s=0.2, decode_wait_ms=50, prefill_wait_ms=50, cool_down_s=0, busy_calls=2
)
DECODE = ("math", "math", "tool")
NAMES = ("math-0", "math-1", "tool-2")


def roles(**changes: Any) -> dict[str, Any]:
    """Settings of a router whose workers follow the load."""
    return {"admin_key": "a", "roles": replace(ROLES, **changes)}


async def make_movable(running: Deployment) -> None:
    """Let all workers be such that somebody moves them."""
    for worker in list(running.parts.pool):
        worker.spec = replace(worker.spec, can_move=True)


async def told(running: Deployment) -> dict[str, Any]:
    """What the router says of roles."""
    async with running.http.get(f"{running.url}/router/roles") as reply:
        assert reply.status == 200
        return await reply.json()


async def report(running: Deployment, order: dict[str, Any], word: str, **more: Any) -> int:
    """Say what became of a move, as a supervisor does."""
    body = {**{key: order[key] for key in ("id", "worker", "before", "after")}, "word": word, **more}
    async with running.http.put(f"{running.url}/router/roles", json=body, headers=ADMIN) as reply:
        await reply.read()
        return reply.status


async def order_of(running: Deployment, state: str = "open") -> dict[str, Any]:
    """The order that is there, once it has come so far."""
    found: list[dict[str, Any]] = []

    async def look() -> bool:
        order = (await told(running))["order"]
        if order is not None and order["state"] == state:
            found.append(order)
        return bool(found)

    for _ in range(5000):
        if await look():
            return found[0]
        await asyncio.sleep(0.02)
    raise AssertionError(f"no order is {state}: {await told(running)}")


def events(running: Deployment, kind: str) -> list[str]:
    """Messages of one kind."""
    return [event["message"] for event in running.parts.observer.events.as_list() if event["kind"] == kind]


class Load:
    """Calls of `tool` that never end, so that it is busy."""

    def __init__(self, running: Deployment, number: int = 6) -> None:
        self._gate = running["tool-2"].gate = asyncio.Semaphore(0)
        self._calls = [asyncio.create_task(self._call(running)) for _ in range(number)]

    async def _call(self, running: Deployment) -> int:
        reply = await running.chat("tool", stream=True)
        await reply.read()
        return reply.status

    async def end(self) -> list[int]:
        """Let all of them end; return how."""
        for _ in range(100):
            self._gate.release()
        return await asyncio.gather(*self._calls)


@in_loop
async def test_a_worker_is_drained_offered_taken_and_lets_another_one_in() -> None:
    async with deployment(decode=DECODE, settings=roles()) as running:
        await make_movable(running)
        load = Load(running)
        order = await order_of(running)
        assert (order["before"], order["after"]) == ("math", "tool")
        moved = order["worker"]
        assert running.parts.pool.get(moved).state == "draining"
        assert await report(running, order, "begun") == 200
        assert running.parts.pool.get(moved) is None
        worker = SmallWorker("tool-9", "decode", running["p0"].rooms, module="tool")
        await worker.start()
        try:
            async with running.http.post(f"{running.url}/workers", json=asdict(worker.spec), headers=ADMIN) as reply:
                assert reply.status == 201
            await asyncio.sleep(1.0)  # events of one kind about one worker are told once a second
            assert await report(running, order, "done", seconds=3.5) == 200
            await running.is_up("tool-9")
            assert (await running.chat("math")).status == 200
            assert set(await load.end()) == {200}
        finally:
            await worker.stop()
        assert (await told(running))["moves"] == {"done": 1, "failed": 0, "would": 0}
        assert events(running, "move")[0].startswith("moves from math to tool: for 0.2 s calls waited")
        assert events(running, "move")[-1] == "is a decode worker of 'tool' after 3.5 s"


@in_loop
async def test_a_dry_run_only_says_what_it_would_do() -> None:
    async with deployment(decode=DECODE, settings=roles(dry_run=True)) as running:
        await make_movable(running)
        load = Load(running)
        await until(lambda: bool(events(running, "move")))
        assert events(running, "move")[0].startswith("would move from math to tool")
        assert (await told(running))["order"] is None
        assert {worker.state for worker in running.parts.pool} == {"up"}
        assert set(await load.end()) == {200}
        assert (await told(running))["moves"]["would"] >= 1


@in_loop
async def test_limits_and_workers_that_nobody_moves_are_left_alone() -> None:
    limits = {"math": Limits(min=2), "tool": Limits(max=5)}
    async with deployment(decode=DECODE, settings=roles(modules=limits)) as running:
        await make_movable(running)
        load = Load(running)
        await asyncio.sleep(1.0)
        assert (await told(running))["order"] is None
        await load.end()
    async with deployment(decode=DECODE, settings=roles()) as running:
        load = Load(running)
        await asyncio.sleep(1.0)
        assert (await told(running))["order"] is None
        await load.end()


@in_loop
async def test_a_worker_whose_calls_do_not_end_serves_on() -> None:
    async with deployment(
        decode=DECODE, settings=roles(busy_calls=8), drain_timeout_s=0.3, decode_load_slack=0
    ) as running:
        await make_movable(running)
        stay = [running[name] for name in ("math-0", "math-1")]
        for worker in stay:
            worker.gate = asyncio.Semaphore(0)
        calls = [asyncio.create_task(running.chat("math", stream=True)) for _ in stay]
        await until(lambda: all(worker.running for worker in stay))
        load = Load(running, number=12)
        await until(lambda: bool(events(running, "move_failed")))
        assert "still had 1 calls after 0.3 s" in events(running, "move_failed")[0]
        assert (await told(running))["moves"]["done"] == 0
        for worker in stay:
            for _ in range(100):
                worker.gate.release()
        assert {(await call).status for call in calls} == {200}
        assert set(await load.end()) == {200}
        await running.is_up("math-0", "math-1")


@in_loop
async def test_a_worker_that_is_killed_while_it_drains_is_moved_all_the_same() -> None:
    # Each of the two gets a call, whatever the other holds of its prompt; and it drains until it is killed.
    async with deployment(
        decode=DECODE, settings=roles(busy_calls=8), drain_timeout_s=60.0, decode_load_slack=0
    ) as running:
        await make_movable(running)
        stay = [running[name] for name in ("math-0", "math-1")]
        for worker in stay:
            worker.gate = asyncio.Semaphore(0)
        calls = [asyncio.create_task(running.chat("math", stream=True)) for _ in stay]
        await until(lambda: all(worker.running for worker in stay))
        load = Load(running, number=12)
        order = await order_of(running, "draining")
        await running[order["worker"]].stop()
        assert (await order_of(running, "open"))["id"] == order["id"]
        assert await report(running, order, "begun") == 200
        assert running.parts.pool.get(order["worker"]) is None
        for worker in stay:
            for _ in range(100):
                worker.gate.release()
        await asyncio.gather(*calls, return_exceptions=True)
        assert set(await load.end()) == {200}


@in_loop
async def test_an_order_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "TAKE_S", 0.1)
    async with deployment(decode=DECODE, settings=roles()) as running:
        await make_movable(running)
        load = Load(running)
        await until(lambda: bool(events(running, "move_failed")))
        await load.end()
        await running.is_up(*NAMES)
        assert "nobody took it in hand" in events(running, "move_failed")[0]


@in_loop
async def test_a_router_that_was_started_in_the_middle_of_a_move_decides_on_no_other() -> None:
    async with deployment(decode=DECODE, settings=roles()) as running:
        await make_movable(running)
        foreign = {"id": "before", "worker": "math-7", "before": "math", "after": None}
        assert await report(running, foreign, "begun") == 200
        load = Load(running)
        await asyncio.sleep(0.6)
        assert (await told(running))["order"]["id"] == "before"
        assert await report(running, foreign, "failed", message="it ended") == 200
        assert events(running, "move_failed") == ["could not become a prefill worker: it ended"]
        assert (await order_of(running))["id"] != "before"
        await load.end()


@in_loop
async def test_a_move_that_is_not_heard_of_any_more_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "SILENT_S", 0.1)
    async with deployment(decode=DECODE, settings=roles()) as running:
        assert await report(running, {"id": "x", "worker": "w", "before": None, "after": "math"}, "begun") == 200
        await until(lambda: bool(events(running, "move_failed")))
        assert (await told(running))["order"] is None


@in_loop
async def test_only_who_may_change_workers_may_speak_of_moves() -> None:
    async with deployment(decode=DECODE, settings=roles()) as running:
        body = {"id": "x", "worker": "w", "word": "begun"}
        async with running.http.put(f"{running.url}/router/roles", json=body) as reply:
            assert reply.status == 401
        for wrong in ({"id": "x"}, [], {**body, "word": "perhaps"}):
            async with running.http.put(f"{running.url}/router/roles", json=wrong, headers=ADMIN) as reply:
                assert reply.status == 400, await reply.text()
    async with deployment(settings={"admin_key": "a"}) as running:
        async with running.http.get(f"{running.url}/router/roles") as reply:
            assert reply.status == 404
            assert "follow_load = true" in await reply.text()
        async with running.http.get(f"{running.url}/deployment/state") as reply:
            assert "role_moves" not in await reply.json()


async def is_deciding(running: Deployment, wanted: bool) -> None:
    """Wait until a router decides on moves, or does not."""
    for _ in range(5000):
        if (await told(running))["is_deciding"] == wanted:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await told(running))


@in_loop
async def test_the_first_router_decides_but_not_while_another_has_a_move_on_its_way() -> None:
    """As when it comes, or comes back, in the middle of one: two moves at once could take a pool's last worker."""
    async with two_routers(settings={"roles": ROLES}) as running:
        first, second = sorted(running, key=lambda router: router.url)
        assert [(await told(router))["is_deciding"] for router in (first, second)] == [True, False]
        order = {"id": "x", "worker": "math-0", "before": "math", "after": None}
        for word, may_first in (("begun", False), ("failed", True)):
            body, headers = {**order, "word": word}, {"Authorization": f"Bearer {ADMIN_KEY}"}
            async with second.http.put(f"{second.url}/router/roles", json=body, headers=headers) as reply:
                assert reply.status == 200
            await is_deciding(first, may_first)
            assert not (await told(second))["is_deciding"]
