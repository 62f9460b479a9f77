"""Of several routers one is told of an alias, and all have it: at once, after an absence, whatever they hear first."""

import asyncio
import contextlib
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefillshare.config.router import Router
from prefillshare.modules.heads import Head, HeadManifest, read_classifier, read_head, write_head
from prefillshare.naming.alias import as_table, read_alias, read_aliases
from prefillshare.naming.rules import ByRules
from prefillshare.routing.changes.book import AliasBook, read_told
from prefillshare.routing.errors import BadCallError
from prefillshare.routing.peers.exchange import PEER_PATH
from prefillshare.routing.peers.hop import HOP_HEADER, Hops
from prefillshare.routing.settings import RouterSettings
from prefillshare.serving.machine.ports import free_port
from tests.routing.routers import ADMIN_KEY, start_router, two_routers
from tests.routing.workers import BASE, FAST, Deployment, closing_session, in_loop, until

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
        http = await stack.enter_async_context(closing_session())
        first = await start_router(stack, replace(settings, port=ports[0]), workers={}, http=http)
        told = (await ask(first, "PUT", "/aliases/m", {"module": "math"}))[1]
        assert told["aliases"] == {"old": "math", "m": "math"}
        # Whether the first router has found out by now depends on the machine.
        assert told["routers"][settings.peers[1]].startswith(("it does not answer", "it did not answer in time"))
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
        http = await stack.enter_async_context(closing_session())
        first = await start_router(stack, first_settings, workers={}, http=http)
        for name in ("m", "n"):
            await ask(first, "PUT", f"/aliases/{name}", {"module": "math"})
        async with contextlib.AsyncExitStack() as life:
            second = await start_router(life, second_settings, workers={}, http=http)
            await until(lambda: second.parts.book.digest() == first.parts.book.digest())
        await ask(first, "PUT", "/aliases/m", {"module": "code"})
        await ask(first, "DELETE", "/aliases/n")
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(closing_session())
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


@pytest.mark.parametrize("content", [b"no JSON", b"[]", b"{}", b'{"refused": 1}'])
@in_loop
async def test_a_router_that_answers_something_else_is_named_and_asked_on(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_routers() as (first, second):
        exchange = first.gateway.peers.exchange
        told: list[object] = []

        async def answer(*asked: object) -> tuple[int, bytes]:
            told.append(asked)
            return 200, content

        monkeypatch.setattr(exchange, "_tell", answer)
        status, answered = await ask(first, "PUT", "/aliases/m", {"module": "math"})
        assert (status, "not as a router" in answered["routers"][second.url]) == (200, True)
        # Beside the change itself, each round tells it, for the other one has not got it.
        await until(lambda: len(told) >= 4)


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
    _hear(book, told, ("math", "code"))


def _hear(book: AliasBook, told: object, modules: tuple[str, ...]) -> dict[str, str]:
    later = book.later(told)
    read, unread = read_told(later, None)
    return unread | book.take(later, read, "base", modules)[1]


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
    assert _hear(book, {"bad": [1, "x", "nope"]}, ("math",)).keys() == {"bad"}
    _take(other, book.as_dict())
    assert other.digest() == book.digest()
    with pytest.raises(BadCallError, match="no object of changes"):
        other.later([])


def _classify(directory: Path, seed: int, labels: tuple[str, ...] = ("math", "tool")) -> dict[str, Any]:
    """A classifier in a directory, and the alias that asks it."""
    told = {"name": "c", "hidden_size": 2, "prefill_fingerprint": "sha256:0", "data_sha256": ""}
    weight, bias = np.full((2, 2), seed, dtype=np.float32), np.zeros(2, dtype=np.float32)
    directory.mkdir(exist_ok=True)
    write_head(directory, Head(manifest=HeadManifest(**told, labels=labels, seed=seed), weight=weight, bias=bias))
    return {"default": "math", "classifier": str(directory)}


def _classifier_of(running: Deployment) -> tuple[str | None, tuple[str, ...]]:
    alias = running.parts.aliases["auto"]
    assert isinstance(alias, ByRules)
    assert alias.judge is not None
    return alias.classifier_sha256, tuple(alias.judge([[1.0, 2.0]]))


@in_loop
async def test_a_classifier_that_is_set_again_is_the_new_one_at_every_router(tmp_path: Path) -> None:
    async with two_routers(settings={"modules": ("math", "tool")}) as (first, second):
        for seed, labels in ((1, ("math", "tool")), (2, ("tool", "math"))):
            status, told = await ask(first, "PUT", "/aliases/auto", _classify(tmp_path / "c", seed, labels))
            assert (status, told["routers"]) == (200, {second.url: None})
            assert _classifier_of(first) == _classifier_of(second) == (read_head(tmp_path / "c").sha256, labels)
            assert await aliases(first) == await aliases(second)
        # What is refused changes nothing, here and there.
        before = _classifier_of(first)
        status, told = await ask(second, "PUT", "/aliases/auto", _classify(tmp_path / "c", 3, ("math", "law")))
        assert (status, "the label 'law'" in told["error"]["message"]) == (400, True)
        assert _classifier_of(first) == _classifier_of(second) == before


@in_loop
async def test_a_router_with_other_files_says_so_and_takes_the_alias_when_it_has_the_same(tmp_path: Path) -> None:
    """Both routers are on this machine: what one finds in its directory is changed before it hears of the alias."""
    async with two_routers(settings={"modules": ("math", "tool")}) as (first, second):
        meaning = _classify(tmp_path / "c", 1)
        alias = read_classifier(read_alias("auto", meaning), None)
        _classify(tmp_path / "c", 2)
        first.parts.book.change("auto", alias)
        assert first.gateway.peers is not None
        [reason] = (await first.gateway.peers.exchange.tell_aliases()).values()
        assert reason is not None
        assert "give both machines the same files, or set the alias again" in reason
        assert "auto" not in second.parts.aliases
        _classify(tmp_path / "c", 1)
        await until(lambda: "auto" in second.parts.aliases)
        assert _classifier_of(first) == _classifier_of(second)


@in_loop
async def test_a_router_begins_without_an_alias_whose_classifier_is_gone(tmp_path: Path) -> None:
    kept = read_aliases({"auto": _classify(tmp_path / "c", 1), "gone": _classify(tmp_path / "gone", 1), "m": "math"})
    shutil.rmtree(tmp_path / "gone")
    async with two_routers(settings={"modules": ("math", "tool"), "aliases": kept}) as (first, _):
        assert list(await aliases(first)) == ["auto", "m"]
        assert _classifier_of(first)[1] == ("math", "tool")
        events = [event["message"] for event in first.parts.observer.events.as_list() if event["subject"] == "gone"]
        assert any("holds no classifier" in message for message in events), events


@in_loop
async def test_whoever_asks_an_alias_hears_of_that_when_nobody_can_look_at_the_prompt(tmp_path: Path) -> None:
    kept = read_aliases({"auto": _classify(tmp_path / "c", 1)})
    async with two_routers(settings={"modules": ("math", "tool"), "aliases": kept}) as (running, _):
        for worker in running.parts.pool.prefill():
            await running[worker.id].stop()
        await until(lambda: not any(worker.is_available for worker in running.parts.pool.prefill()))
        reply = await running.chat("auto")
        assert reply.status == 503
        assert (await reply.json())["error"]["message"].startswith("model 'auto' cannot answer now: no prefill worker")
