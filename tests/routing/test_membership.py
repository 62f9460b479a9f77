"""Workers that join and leave while the router runs."""

import asyncio

from tests.routing.workers import SmallWorker, deployment, in_loop, until

ADMIN = {"Authorization": "Bearer a"}
KEYS = {"admin_key": "a"}


@in_loop
async def test_a_worker_joins_and_its_module_can_be_called() -> None:
    async with deployment(settings=KEYS) as running:
        worker = SmallWorker("code-9", "decode", running["p0"].rooms, module="code")
        await worker.start()
        try:
            assert (await running.chat("code")).status == 404
            spec = {"id": "code-9", "role": "decode", "module": "code", "url": worker.spec.url, "bootstrap_port": None}
            for status in (201, 409):
                async with running.http.post(f"{running.url}/workers", json=spec, headers=ADMIN) as reply:
                    assert reply.status == status
            await running.is_up("code-9")
            assert (await running.chat("code")).status == 200
        finally:
            await worker.stop()


@in_loop
async def test_a_worker_that_leaves_finishes_its_calls_first() -> None:
    async with deployment(decode=("math", "math"), settings=KEYS) as running:
        gates = [asyncio.Semaphore(1), asyncio.Semaphore(1)]  # a first piece of either call
        running["math-0"].gate, running["math-1"].gate = gates
        reply = await running.chat(stream=True)
        leaving = reply.headers["X-Decode-Worker"]
        url = f"{running.url}/workers/{leaving}"
        leave = asyncio.create_task(running.http.delete(url, headers=ADMIN))
        await until(lambda: running.parts.pool.get(leaving).state == "draining")
        other = await running.chat(stream=True)
        assert other.headers["X-Decode-Worker"] != leaving
        assert not leave.done()
        for _ in range(3):
            for gate in gates:
                gate.release()
        assert b"[DONE]" in await reply.read()
        assert b"[DONE]" in await other.read()
        assert await (await leave).json() == {"id": leaving, "unfinished": 0}
        assert running.parts.pool.get(leaving) is None
        assert leaving not in running.parts.chooser.index.match(b"\x1e" * 3)
        async with running.http.delete(url, headers=ADMIN) as again:
            assert again.status == 404


@in_loop
async def test_a_worker_that_does_not_finish_leaves_all_the_same() -> None:
    async with deployment(decode=("math", "math"), settings=KEYS, drain_timeout_s=0.3) as running:
        gate = running["math-0"].gate = running["math-1"].gate = asyncio.Semaphore(1)
        reply = await running.chat(stream=True)
        leaving = reply.headers["X-Decode-Worker"]
        async with running.http.delete(f"{running.url}/workers/{leaving}", headers=ADMIN) as left:
            assert await left.json() == {"id": leaving, "unfinished": 1}
        for _ in range(3):
            gate.release()
        assert b"[DONE]" in await reply.read()


@in_loop
async def test_only_the_admin_changes_workers_and_nobody_without_an_admin_key() -> None:
    async with deployment() as running, running.http.delete(f"{running.url}/workers/p0") as reply:
        assert reply.status == 403
    async with deployment(settings=KEYS) as running:
        async with running.http.delete(f"{running.url}/workers/p0") as reply:
            assert reply.status == 401
        assert running.parts.pool.get("p0") is not None


@in_loop
async def test_a_worker_that_makes_no_sense_is_refused_with_the_reason() -> None:
    async with deployment(settings=KEYS) as running:
        cases = [
            (b"{", "not JSON"),
            (b"[]", "JSON object"),
            (b'{"id": "x"}', "no 'role'"),
            (b'{"id": "x", "role": "decode", "url": "http://h:1"}', "has no module"),
            (b'{"id": "x", "role": "prefill", "url": "file:///etc"}', "bootstrap"),
            # No request to it could be made: neither its health nor anything else could be asked.
            (
                b'{"id": "x", "role": "decode", "module": "m", "url": "http://h:1", "api_key": "k\\n"}',
                "worker 'x' holds a line end",
            ),
        ]
        for body, reason in cases:
            async with running.http.post(f"{running.url}/workers", data=body, headers=ADMIN) as reply:
                assert reply.status == 400
                assert reason in (await reply.json())["error"]["message"]


@in_loop
async def test_a_worker_that_is_not_there_yet_is_waited_for() -> None:
    async with deployment(decode=(), settings=KEYS) as running:
        worker = SmallWorker("math-0", "decode", running["p0"].rooms, module="math")
        await worker.start()
        spec = worker.spec
        await worker.stop()
        running.gateway.join(spec)
        reply = await running.chat()
        assert reply.status == 503
        assert "math-0 is starting" in await reply.text()
        await worker.start()
        try:
            await running.is_up("math-0")
            assert (await running.chat()).status == 200
        finally:
            await worker.stop()
