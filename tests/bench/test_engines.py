"""What the engines of a system say of themselves, read off small servers in the engines' form."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prefillshare.bench.drivers.engines import Prefilled, Watcher
from prefillshare.bench.systems.base import Engine
from prefillshare.errors import BenchError

SGLANG = """# TYPE sglang:realtime_tokens_total counter
sglang:realtime_tokens_total{mode="prefill_compute"} 70
sglang:realtime_tokens_total{mode="prefill_cache"} 500
sglang:realtime_tokens_total{mode="decode"} 40
"""
OURS = """# TYPE prefillshare_eager_tokens_total counter
prefillshare_eager_tokens_total{worker="engine",role="engine",module=""} 30
# TYPE prefillshare_eager_hit_tokens_total counter
prefillshare_eager_hit_tokens_total{worker="engine",role="engine",module=""} 20
"""


async def read(*pages: str, is_decoding: bool = False) -> Prefilled:
    servers = []
    for page in pages:
        app = web.Application()
        app.router.add_get("/metrics", lambda _, page=page: web.Response(text=page))
        servers.append(TestServer(app))
        await servers[-1].start_server()
    engines = [Engine(url=str(server.make_url("")).rstrip("/"), prefills=not is_decoding) for server in servers]
    try:
        async with aiohttp.ClientSession() as http:
            return await Watcher(http, engines).read_prefilled()
    finally:
        for server in servers:
            await server.close()


@pytest.mark.parametrize(
    ("pages", "found"),
    [
        ((SGLANG,), Prefilled(tokens=70, eager_tokens=None)),
        ((SGLANG + OURS,), Prefilled(tokens=70, eager_tokens=30)),
        ((SGLANG + OURS, SGLANG + OURS), Prefilled(tokens=140, eager_tokens=60)),
        ((SGLANG + OURS, SGLANG), Prefilled(tokens=140, eager_tokens=30)),
    ],
)
def test_what_was_computed_ahead_is_a_part_of_what_was_computed(pages, found) -> None:
    assert asyncio.run(read(*pages)) == found


def test_decode_workers_prefill_nothing() -> None:
    assert asyncio.run(read(SGLANG + OURS, is_decoding=True)) == Prefilled(tokens=0, eager_tokens=None)


def test_an_engine_that_died_before_its_cache_was_emptied_is_named() -> None:
    async def flush() -> None:
        server = TestServer(web.Application())
        await server.start_server()
        url = str(server.make_url("")).rstrip("/")
        await server.close()
        async with aiohttp.ClientSession() as http:
            await Watcher(http, [Engine(url=url, prefills=True)]).flush()

    with pytest.raises(BenchError, match=r"the cache of http://127\.0\.0\.1:\d+ could not be emptied \(.+\): look at"):
        asyncio.run(flush())


def test_a_run_is_over_when_what_follows_its_answers_is_computed() -> None:
    """The two counts of an engine are read one after the other: in between, the last job would be in one of them."""
    waiting = [2, 1, 0]
    load = {"num_used_tokens": 5, "num_running_reqs": 0, "num_waiting_reqs": 0}
    load["memory"] = dict.fromkeys(("weight_gb", "kv_cache_gb", "graph_gb"), 1)

    async def tell_metrics(request: web.Request) -> web.Response:
        return web.Response(text=f'{OURS}prefillshare_eager_waiting{{worker="engine"}} {waiting.pop(0)}\n')

    async def settle() -> None:
        app = web.Application()
        app.router.add_get("/metrics", tell_metrics)
        app.router.add_get("/v1/loads", lambda _: web.json_response({"loads": [load]}))
        async with TestServer(app) as server, aiohttp.ClientSession() as http:
            engine = Engine(url=str(server.make_url("")).rstrip("/"))
            assert (await Watcher(http, [engine]).wait_until_settled()).used_tokens == 5

    asyncio.run(settle())
    assert waiting == []


def test_a_run_is_not_over_while_the_router_has_jobs_for_its_engines() -> None:
    at_router, load = [1, 1, 0], {"num_used_tokens": 5, "num_running_reqs": 0, "num_waiting_reqs": 0}
    load["memory"] = dict.fromkeys(("weight_gb", "kv_cache_gb", "graph_gb"), 1)

    async def tell_jobs(request: web.Request) -> web.Response:
        return web.Response(text=f"prefillshare_eager_jobs_waiting {at_router.pop(0)}\n")

    async def settle() -> None:
        engine_app, router_app = web.Application(), web.Application()
        engine_app.router.add_get("/metrics", lambda _: web.Response(text=OURS))
        engine_app.router.add_get("/v1/loads", lambda _: web.json_response({"loads": [load]}))
        router_app.router.add_get("/metrics", tell_jobs)
        async with TestServer(engine_app) as engine, TestServer(router_app) as router, aiohttp.ClientSession() as http:
            its = [Engine(url=str(server.make_url("")).rstrip("/")) for server in (engine, router)]
            await Watcher(http, [its[0]], its[1]).wait_until_settled()

    asyncio.run(settle())
    assert at_router == []
