"""Prompts that wait for pages of other hosts, no longer than prefilling takes.

    prompt --prefetch--> missing here? --begin--> thread: peers are asked, pages come into this host's store
           <--False------ check_prefetch_progress    |
           --prefetch again, without a fetch <----- done, or as late as prefilling would have been

The scheduler's thread only looks whether a fetch has ended: no call but the one that wants the pages waits for a peer.
What comes too late for its prompt is in the store for the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

    from sglang_patches.store.costs import LoadCosts

Begin = Callable[[Sequence[str], Sequence[str], float], "Future[int]"]
"""Keys of the pages, keys of the chain before them, seconds -> how many came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetch:
    future: Future[int]
    num_pages: int
    until: float

    @property
    def has_ended(self) -> bool:
        return self.future.done() or time.monotonic() > self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A request and what it waits for."""

    req: Req
    fetch: _Fetch


class Fetches:
    """Of one scheduler; used by its thread alone."""

    def __init__(self, begin: Begin, costs: LoadCosts, page_tokens: int) -> None:
        self._begin = begin
        self._costs = costs
        self._page_tokens = page_tokens
        self._waiting: dict[str, Waiting] = {}
        """Request id -> its wait."""
        self._under_way: dict[str, _Fetch] = {}
        """First key -> the fetch that brings it: equal prompts that come together ask once, a longer one asks anew."""

    def begin(self, req: Req, keys: Sequence[str], prefix: Sequence[str]) -> bool:
        """Let the request wait for pages, which continue ``prefix``; False where that is not worth it."""
        self._sweep()
        if not keys:
            return False
        fetch = self._under_way.get(keys[0])
        if fetch is None or fetch.num_pages < len(keys):
            fetch = self._ask(keys, prefix)
        if fetch is not None:
            self._waiting[req.rid] = Waiting(req=req, fetch=fetch)
        return fetch is not None

    def join(self, req: Req) -> None:
        """Let a request that other ranks have to wait with wait for nothing, if it does not wait yet."""
        if req.rid not in self._waiting:
            nothing: Future[int] = Future()
            nothing.set_result(0)
            self._waiting[req.rid] = Waiting(req=req, fetch=_Fetch(future=nothing, num_pages=0, until=0.0))

    def get(self, request_id: str) -> Waiting | None:
        """What a request waits for."""
        return self._waiting.get(request_id)

    def forget(self, request_id: str) -> None:
        """The request waits no longer."""
        self._waiting.pop(request_id, None)

    def clear(self) -> None:
        """Nobody waits any longer."""
        self._waiting.clear()
        self._under_way.clear()

    def _ask(self, keys: Sequence[str], prefix: Sequence[str]) -> _Fetch | None:
        num_tokens = len(keys) * self._page_tokens
        if not self._costs.should_fetch(num_tokens):
            return None
        longest_s, began = self._costs.longest_fetch_s(num_tokens), time.monotonic()
        future = self._begin(keys, prefix, longest_s)
        future.add_done_callback(lambda done: self._measure(done, began))
        fetch = self._under_way[keys[0]] = _Fetch(future=future, num_pages=len(keys), until=began + longest_s)
        return fetch

    def _measure(self, done: Future[int], began: float) -> None:
        """Count what came; called by the thread that fetched."""
        if not done.cancelled() and done.exception() is None:
            self._costs.fetch.add(done.result() * self._page_tokens, time.monotonic() - began)

    def _sweep(self) -> None:
        for key in [key for key, fetch in self._under_way.items() if fetch.has_ended]:
            del self._under_way[key]
