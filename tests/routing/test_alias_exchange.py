"""Of several routers one is told of an alias, and all have it: at once, after an absence, whatever they hear first."""

import asyncio
import contextlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prefillshare.config.router import Router
from prefillshare.naming.alias import as_table, read_alias, read_aliases
from prefillshare.routing.changes.book import AliasBook
from prefillshare.routing.errors import BadCallError
from prefillshare.routing.peers.exchange import PEER_PATH
from prefillshare.routing.peers.hop import HOP_HEADER, Hops
from prefillshare.routing.settings import RouterSettings
from prefillshare.serving.machine.ports import free_port
from tests.routing.routers import ADMIN_KEY, start_router, two_routers
from tests.routing.workers import BASE, FAST, Deployment, in_loop, until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


async def ask(running: Deployment, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    async with running.http.request(method, running.url + path, json=body, headers=ADMIN) as reply:
        return reply.status, await reply.json()


async def aliases(running: Deployment) -> dict[str, Any]:
    return dict((await ask(running, "GET", "/aliases"))[1]["aliases"])


@in_loop
async def test_an_alias_is_at_every_router_when_the_answer_comes() -> None:
    async with two_routers() as (first, second):
        status, told = await ask(first, "PUT", "/aliases/m", {"module": "math"})
        assert (status, told) == (200, {"aliases": {"m": "math"}, "routers": {second.url: None}})
        assert await aliases(second) == {"m": "math"}
        async with await second.chat("m") as reply:
            assert reply.status == 200, await reply.text()
        assert (await ask(second, "DELETE", "/aliases/m"))[1] == {"aliases": {}, "routers": {first.url: None}}
        assert await aliases(first) == {}
        events = [event["message"] for event in first.parts.observer.events.as_list()]
        assert events.count("these are the aliases now") == 2


@in_loop
async def test_a_router_that_is_away_is_named_and_hears_of_every_change_later() -> None:
    ports = [free_port(), free_port()]
    settings = RouterSettings(
        base_model=BASE,
        modules=("math",),
        peers=tuple(f"http://127.0.0.1:{port}" for port in ports),
        admin_key=ADMIN_KEY,
        router=Router(**FAST),
        aliases=read_aliases({"old": "math"}),
    )
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        first = await start_router(stack, replace(settings, port=ports[0]), workers={}, http=http)
        told = (await ask(first, "PUT", "/aliases/m", {"module": "math"}))[1]
        assert told["aliases"] == {"old": "math", "m": "math"}
        assert "it does not answer" in told["routers"][settings.peers[1]]
        assert "hears of it when it does" in told["routers"][settings.peers[1]]
        await ask(first, "DELETE", "/aliases/old")
        second = await start_router(stack, replace(settings, port=ports[1]), workers={}, http=http)
        await until(lambda: as_table(second.parts.aliases) == {"m": "math"})
        assert first.parts.book.digest() == second.parts.book.digest() != ""


@in_loop
async def test_routers_that_are_killed_at_once_come_back_with_the_latest_that_any_of_them_knew(tmp_path: Path) -> None:
    """One of them was away when the other was told: what it knows is older, and it says so."""
    ports = [free_port(), free_port()]
    common = RouterSettings(
        base_model=BASE,
        modules=("math", "code"),
        peers=tuple(f"http://127.0.0.1:{port}" for port in ports),
        admin_key=ADMIN_KEY,
        router=Router(**FAST),
    )
    first_settings, second_settings = (
        replace(common, port=port, aliases_file=tmp_path / f"{port}.json") for port in ports
    )
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        first = await start_router(stack, first_settings, workers={}, http=http)
        for name in ("m", "n"):
            await ask(first, "PUT", f"/aliases/{name}", {"module": "math"})
        async with contextlib.AsyncExitStack() as life:
            second = await start_router(life, second_settings, workers={}, http=http)
            await until(lambda: second.parts.book.digest() == first.parts.book.digest())
        await ask(first, "PUT", "/aliases/m", {"module": "code"})
        await ask(first, "DELETE", "/aliases/n")
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        second = await start_router(stack, second_settings, workers={}, http=http)
        assert await aliases(second) == {"m": "math", "n": "math"}
        first = await start_router(stack, first_settings, workers={}, http=http)
        assert await aliases(first) == {"m": "code"}
        await until(lambda: as_table(second.parts.aliases) == {"m": "code"})
        assert first.parts.book.digest() == second.parts.book.digest()
        assert await aliases(first) == {"m": "code"}


@in_loop
async def test_a_router_without_the_module_says_so_and_takes_the_alias_when_it_has_it() -> None:
    async with two_routers() as (first, second):
        first.parts.pool.declare("late")
        told = (await ask(first, "PUT", "/aliases/newest", {"module": "late"}))[1]
        assert "means 'late', which is no decode module of math" in told["routers"][second.url]
        assert await aliases(second) == {}
        second.parts.pool.declare("late")
        await until(lambda: "newest" in second.parts.aliases)


@in_loop
async def test_changes_at_both_at_once_are_kept_by_both() -> None:
    async with two_routers() as (first, second):
        asked = (
            ask((first, second)[number % 2], "PUT", f"/aliases/m{number}", {"module": "math"}) for number in range(6)
        )
        assert all(status == 200 for status, _ in await asyncio.gather(*asked))
        expected = {f"m{number}": "math" for number in range(6)}
        await until(lambda: first.parts.book.digest() == second.parts.book.digest())
        assert await aliases(first) == await aliases(second) == expected


@in_loop
async def test_only_routers_of_the_deployment_tell() -> None:
    async with two_routers() as (first, second):
        url, body = first.url + PEER_PATH, {"aliases": {"m": [1, "x", "math"]}}
        async with first.http.put(url, json=body, headers=ADMIN) as reply:
            assert reply.status == 403
        mark = {HOP_HEADER: Hops(ADMIN_KEY, second.url).mark_for(first.url)}
        for wrong in ({"aliases": ["m"]}, {"aliases": {"m": [1]}}, {"flushed": "p0"}, {}, []):
            async with first.http.put(url, json=wrong, headers=mark) as reply:
                assert reply.status == 400, wrong
        assert await aliases(first) == {}
        async with first.http.put(url, json=body, headers=mark) as reply:
            assert (reply.status, await reply.json()) == (200, {"refused": {}})
        assert await aliases(first) == {"m": "math"}


def _make_book(address: str) -> AliasBook:
    return AliasBook({}, address, None)


def _take(book: AliasBook, told: object) -> None:
    book.take(told, "base", ("math", "code"))


@pytest.mark.parametrize("seed", range(20))
def test_books_end_alike_whatever_they_hear_first(seed: int) -> None:
    draw = random.Random(seed)
    books = [_make_book(f"http://10.0.0.{number}:1") for number in range(3)]
    for _ in range(30):
        name, meaning = draw.choice("abc"), draw.choice(("math", "code", None))
        draw.choice(books).change(name, None if meaning is None else read_alias(name, meaning))
        if draw.random() < 0.3:
            _take(draw.choice(books), draw.choice(books).as_dict())
    for _ in range(2):
        pairs = [(one, other) for one in books for other in books if one is not other]
        draw.shuffle(pairs)
        for one, other in pairs:
            _take(one, other.as_dict())
    assert len({book.digest() for book in books}) == 1
    assert as_table(books[0].aliases) == as_table(books[1].aliases) == as_table(books[2].aliases)


def test_rules_that_mean_an_alias_come_after_it() -> None:
    book, other = _make_book("http://10.0.0.1:1"), _make_book("http://10.0.0.2:1")
    book.change("zeta", read_alias("zeta", "math"))
    book.change("auto", read_alias("auto", {"default": "zeta", "rules": [{"module": "code", "text": "x"}]}))
    assert book.take({"bad": [1, "x", "nope"]}, "base", ("math",))[1].keys() == {"bad"}
    _take(other, book.as_dict())
    assert other.digest() == book.digest()
    with pytest.raises(BadCallError, match="no object of changes"):
        other.take([], "base", ())
