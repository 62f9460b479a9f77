"""Workers that announce themselves: they join, stay, are told to leave, come back, and are forgotten."""

import asyncio
import contextlib
from dataclasses import asdict, replace
from typing import Any

from prefillshare.routing.workers.announced import SILENT_S, Announcements
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.serving.join.announcer import Announcer
from tests.routing.workers import Deployment, SmallWorker, deployment, in_loop

ADMIN = {"Authorization": "Bearer a"}
KEYS = {"admin_key": "a"}
SPEC = WorkerSpec(id="w", role="decode", module="math", url="http://127.0.0.1:1")


async def _announce(running: Deployment, spec: WorkerSpec, name: str | None = None) -> tuple[int, Any]:
    url = f"{running.url}/workers/{name or spec.id}"
    async with running.http.put(url, json=asdict(spec), headers=ADMIN) as reply:
        return reply.status, await reply.json()


def _error(reply: tuple[int, Any]) -> str:
    return reply[1]["error"]["message"]


@in_loop
async def test_a_worker_that_repeats_itself_joins_once_and_answers() -> None:
    async with deployment(settings=KEYS) as running:
        worker = SmallWorker("code-9", "decode", running["p0"].rooms, module="code")
        await worker.start()
        try:
            assert [(await _announce(running, worker.spec))[0] for _ in range(3)] == [201, 200, 200]
            await running.is_up("code-9")
            assert (await running.chat("code")).status == 200
        finally:
            await worker.stop()


@in_loop
async def test_a_module_of_the_file_whose_worker_has_not_come_back_yet_is_waited_for() -> None:
    """A router that was started again, before its workers repeat themselves: no client may take that for good."""
    settings = {**KEYS, "modules": ("code", "math")}
    async with deployment(decode=(), settings=settings) as running:
        reply = await running.chat("math")
        assert (reply.status, reply.headers["Retry-After"]) == (503, "2")
        assert "no decode worker of 'math' is up (none has joined)" in await reply.text()
        async with running.http.get(f"{running.url}/v1/models") as models:
            assert [card["id"] for card in (await models.json())["data"]] == ["code", "math"]
        assert (await running.chat("nobody")).status == 404


@in_loop
async def test_a_worker_that_was_told_to_leave_hears_so_until_it_is_started_anew() -> None:
    async with deployment(settings=KEYS) as running:
        assert (await _announce(running, SPEC))[0] == 201
        async with running.http.delete(f"{running.url}/workers/w", headers=ADMIN) as reply:
            assert reply.status == 200
        for _ in range(2):
            status, content = await _announce(running, SPEC)
            assert (status, content["error"]["code"]) == (410, "gone")
        assert (await _announce(running, replace(SPEC, url="http://127.0.0.1:2")))[0] == 201


@in_loop
async def test_a_worker_that_was_started_anew_takes_the_place_of_the_one_before_once_that_is_gone() -> None:
    async with deployment(settings=KEYS) as running:
        before = SmallWorker("code-9", "decode", running["p0"].rooms, module="code")
        after = SmallWorker("code-9", "decode", running["p0"].rooms, module="code")
        await before.start()
        await after.start()
        try:
            await _announce(running, before.spec)
            await running.is_up("code-9")
            refused = await _announce(running, after.spec)
            assert refused[0] == 409
            assert before.spec.url in _error(refused)
            worker = running.parts.pool.get("code-9")
            assert worker is not None
            worker.set_state("down", "its process ended")
            assert (await _announce(running, after.spec))[0] == 201
            await running.is_up("code-9")
            assert [worker.spec for worker in running.parts.pool.replicas("code")] == [after.spec]
        finally:
            await before.stop()
            await after.stop()


@in_loop
async def test_a_worker_that_was_refused_does_not_send_the_one_of_its_name_away() -> None:
    async with deployment(settings=KEYS) as running:
        said: list[str] = []
        async with contextlib.AsyncExitStack() as stack:
            announcers = []
            for _ in range(2):
                worker = SmallWorker("code-9", "decode", running["p0"].rooms, module="code")
                await worker.start()
                stack.push_async_callback(worker.stop)
                announcers.append(Announcer([running.url], asdict(worker.spec), "a", said.append))
                assert not await asyncio.to_thread(announcers[-1].step)
                await running.is_up("code-9")
            first, second = said
            assert first.endswith("knows this worker")
            assert "worker 'code-9' is there already" in second
            assert [announcer.refusals for announcer in announcers] == [[], [second]]
            await asyncio.to_thread(announcers[1].leave, 5.0)
            assert running.parts.pool.get("code-9") is not None
            await asyncio.to_thread(announcers[0].leave, 5.0)
            assert running.parts.pool.get("code-9") is None


@in_loop
async def test_a_router_that_does_not_hear_that_a_worker_leaves_is_named() -> None:
    said: list[str] = []
    async with deployment(settings=KEYS) as running:
        worker = SmallWorker("code-9", "decode", running["p0"].rooms, module="code")
        await worker.start()
        announcer = Announcer([running.url], asdict(worker.spec), "a", said.append)
        await asyncio.to_thread(announcer.step)
        await worker.stop()
    await asyncio.to_thread(announcer.leave, 5.0)
    assert said[1:] == [f"{running.url} did not answer that this worker leaves (ConnectError): it finds out by itself"]


@in_loop
async def test_what_a_router_was_started_with_is_not_replaced_by_what_announces_itself() -> None:
    async with deployment(settings=KEYS) as running:
        spec = replace(running["math-0"].spec, url="http://127.0.0.1:1")
        assert (await _announce(running, spec))[0] == 409


@in_loop
async def test_a_worker_over_another_prefill_module_is_refused() -> None:
    async with deployment(settings={**KEYS, "fingerprint": "sha256:own"}) as running:
        refused = await _announce(running, replace(SPEC, fingerprint="sha256:other"))
        assert refused[0] == 409
        assert "sha256:other" in _error(refused)
        assert "sha256:own" in _error(refused)
        assert running.parts.pool.get("w") is None
        assert (await _announce(running, replace(SPEC, fingerprint="sha256:own")))[0] == 201


@in_loop
async def test_a_worker_hears_before_it_starts_what_is_against_it_and_does_not_join_yet() -> None:
    async with deployment(settings={**KEYS, "fingerprint": "sha256:own"}) as running:
        for key, fingerprint, told in (
            ("a", "sha256:own", []),
            ("b", "sha256:own", ["wants another admin key"]),
            ("a", "sha256:other", ["refuses this worker: worker 'w' has the prefill module sha256:other"]),
        ):
            said: list[str] = []
            worker = asdict(replace(SPEC, fingerprint=fingerprint))
            announcer = Announcer([running.url], worker, key, said.append)
            await asyncio.to_thread(announcer.ask_ahead)
            assert [text in line for text, line in zip(told, said, strict=True)] == [True] * len(told), said
            assert not announcer.is_known
            assert running.parts.pool.get("w") is None
            if told:
                await asyncio.to_thread(announcer.step)
                assert len(said) == 1, "what has not changed is said once"


@in_loop
async def test_a_worker_that_starts_before_its_router_says_so_and_joins_later() -> None:
    said: list[str] = []
    async with deployment(settings=KEYS) as running:
        nobody = Announcer(["http://127.0.0.1:1", running.url], asdict(SPEC), "a", said.append)
        await asyncio.to_thread(nobody.ask_ahead)
        assert said == ["http://127.0.0.1:1 does not answer (ConnectError): asked again every 3 s"]
        await asyncio.to_thread(nobody.step)
        assert said[1:] == [f"{running.url} knows this worker"]


@in_loop
async def test_path_and_body_must_name_the_same_worker_and_the_key_is_not_told() -> None:
    async with deployment(settings=KEYS) as running:
        refused = await _announce(running, SPEC, name="v")
        assert refused[0] == 400
        assert "'v'" in _error(refused)
        await _announce(running, replace(SPEC, api_key="secret-of-w"))
        async with running.http.get(f"{running.url}/workers") as reply:
            assert "secret-of-w" not in await reply.text()
        assert "secret-of-w" not in repr(running.parts.pool.get("w").spec)  # type: ignore[union-attr]
        async with running.http.put(f"{running.url}/workers/w", json=asdict(SPEC)) as reply:
            assert reply.status == 401


@in_loop
async def test_a_worker_is_asked_with_the_key_that_it_announced() -> None:
    async with deployment(settings={**KEYS, "worker_api_key": "of-all"}) as running:
        worker = SmallWorker("code-9", "decode", running["p0"].rooms, module="code")
        await worker.start()
        try:
            await _announce(running, replace(worker.spec, api_key="of-w"))
            await running.is_up("code-9")
            assert (await running.chat("code")).status == 200
            assert {headers["Authorization"] for headers in worker.headers} == {"Bearer of-w"}
        finally:
            await worker.stop()


def test_silence_is_noticed_and_a_word_ends_it() -> None:
    now = [0.0]
    announcements = Announcements(lambda: now[0])
    announcements.hear(SPEC)
    now[0] = SILENT_S + 1
    assert announcements.silent() == ["w"]
    announcements.hear(SPEC)
    assert announcements.silent() == []


@in_loop
async def test_a_silent_worker_is_forgotten_unless_it_answers() -> None:
    async with deployment(settings=KEYS) as running:
        gateway, now = running.gateway, [0.0]
        gateway.announcements = Announcements(lambda: now[0])
        await _announce(running, SPEC)
        await _announce(running, replace(running["math-0"].spec, id="alive"))
        await running.is_up("alive")
        now[0] = SILENT_S + 1
        await gateway.sweep()
        assert running.parts.pool.get("w") is None
        assert running.parts.pool.get("alive") is not None
