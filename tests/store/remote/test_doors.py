"""The doors of a host's process, without a network between hosts: who waits there for whom."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import msgspec
from aiohttp.test_utils import TestClient, TestServer

from prefillshare.store.remote.app import engines_app, peers_app
from prefillshare.store.remote.fetching import Fetcher
from prefillshare.store.remote.messages import FETCH_PATH, MAC_HEADER, Fetch, Fetched, Find, Found, Stage, Staged
from prefillshare.store.remote.secret import Secret
from prefillshare.store.remote.sharing import Sharing

_NUM_THREADS = 2


class StuckFetcher:
    """Fetches of a peer that does not answer before it may."""

    def __init__(self) -> None:
        self.num_begun = 0
        self.may_answer = threading.Event()

    def fetch(self, asked: Fetch) -> int:
        self.num_begun += 1
        self.may_answer.wait()
        return len(asked.keys)


class SmallSharing:
    """A host that has three pages of whatever is asked, and lays none before it may."""

    def __init__(self) -> None:
        self.answers = {"/find": self._find, "/stage": self._stage}
        self.num_begun = 0
        self.may_lay = threading.Event()

    def _find(self, body: bytes) -> tuple[bytes, Found]:
        return msgspec.msgpack.decode(body, type=Find).nonce, Found(num_pages=3)

    def _stage(self, body: bytes) -> tuple[bytes, Staged]:
        self.num_begun += 1
        self.may_lay.wait()
        return msgspec.msgpack.decode(body, type=Stage).nonce, Staged(lease=b"", agent="", pages=[])


def test_a_peer_is_answered_while_every_fetch_waits_for_another_peer() -> None:
    """Two hosts that fetch of each other would else wait for each other, all threads of both."""
    asyncio.run(_ask_while_all_fetch())


async def _ask_while_all_fetch() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_NUM_THREADS))
    fetcher, secret = StuckFetcher(), Secret(b"s" * 32)
    engines = TestClient(TestServer(engines_app(cast("Fetcher", fetcher))))
    peers = TestClient(TestServer(peers_app(cast("Sharing", SmallSharing()), secret)))
    async with engines, peers:
        fetches = [asyncio.create_task(_fetch(engines)) for _ in range(_NUM_THREADS + 1)]
        try:
            while fetcher.num_begun < _NUM_THREADS:
                await asyncio.sleep(0.01)
            assert await asyncio.wait_for(_find(peers, secret), 60) == 3
        finally:
            fetcher.may_answer.set()
            fetched = await asyncio.gather(*fetches)
    assert fetched == [2] * len(fetches)


def test_a_peer_hears_what_is_there_while_pages_are_laid_for_others() -> None:
    """From a slow disk, say: a peer that hears nothing takes the host for gone."""
    asyncio.run(_ask_while_all_lay())


async def _ask_while_all_lay() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_NUM_THREADS))
    sharing, secret = SmallSharing(), Secret(b"s" * 32)
    async with TestClient(TestServer(peers_app(cast("Sharing", sharing), secret))) as peers:
        body = msgspec.msgpack.encode(Stage(nonce=b"n", identity=b"model", keys=[], codec=0))
        headers = {MAC_HEADER: secret.of_request("/stage", body)}
        laid = [asyncio.create_task(peers.post("/stage", data=body, headers=headers)) for _ in range(40)]
        try:
            while sharing.num_begun < _NUM_THREADS:
                await asyncio.sleep(0.01)
            assert await asyncio.wait_for(_find(peers, secret), 60) == 3
        finally:
            sharing.may_lay.set()
            replies = await asyncio.gather(*laid)
    assert {reply.status for reply in replies} == {200}


async def _fetch(engines: "TestClient[Any, Any]") -> int:
    asked = Fetch(identity=b"model", prefix=[], keys=[b"1" * 32, b"2" * 32], timeout_s=60.0)
    async with engines.post(FETCH_PATH, data=msgspec.msgpack.encode(asked)) as reply:
        return msgspec.msgpack.decode(await reply.read(), type=Fetched).num_pages


async def _find(peers: "TestClient[Any, Any]", secret: Secret) -> int:
    body = msgspec.msgpack.encode(Find(nonce=b"n", identity=b"model", keys=[]))
    async with peers.post("/find", data=body, headers={MAC_HEADER: secret.of_request("/find", body)}) as reply:
        return msgspec.msgpack.decode(await reply.read(), type=Found).num_pages
