"""Tells routers, again and again, that a worker is there, and in the end that it leaves.

A router that does not answer is asked again with the next turn, so that one that was started anew knows its workers
within seconds. No thread and no timer: whoever owns the worker calls `step` a few times per second.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx

from prefillshare.direct import direct_client
from prefillshare.serving.options import auth_header

INTERVAL_S = 3.0
"""Pause between two announcements."""
_TIMEOUT_S = 1.0


class Announcer:
    """What one worker tells the routers that it serves."""

    def __init__(
        self, routers: Sequence[str], worker: Mapping[str, Any], admin_key: str, say: Callable[[str], None]
    ) -> None:
        """`worker` is what `PUT /workers/ID` takes; `say` hears what people should know."""
        self._worker = dict(worker)
        self._routers: tuple[str, ...] = ()
        self._urls: list[str] = []
        self.order: tuple[str, Mapping[str, Any]] | None = None
        """The order to move that the worker got with the last answers, and the router that gave it."""
        self.follow(routers)
        self._headers = auth_header(admin_key)
        self._say = say
        self._next_at = 0.0
        self._said: dict[str, str] = {}
        self._joined: set[str] = set()

    def follow(self, routers: Sequence[str]) -> None:
        """Tell these routers from now on."""
        self._routers = tuple(routers)
        self._urls = [f"{router}/workers/{quote(str(self._worker['id']), safe='')}" for router in routers]

    def introduce(self, worker: Mapping[str, Any]) -> None:
        """Tell the routers of this worker from now on, at once: it has come in the place of the one before."""
        self._worker = dict(worker)
        self._joined.clear()
        self.follow(self._routers)
        self._next_at = 0.0

    @property
    def is_known(self) -> bool:
        """Whether every router took the worker when it was told of it last."""
        return bool(self._urls) and self._joined.issuperset(self._urls)

    @property
    def refusals(self) -> list[str]:
        """What the routers that did not take the worker said last, or why they could not be asked."""
        return [
            f"{_router_of(url)} {self._said[url]}"
            for url in self._urls
            if url not in self._joined and url in self._said
        ]

    def step(self) -> bool:
        """Announce the worker if it is time to; return whether a router said that it was told to leave."""
        if time.monotonic() < self._next_at:
            return False
        self.order = None
        answers = [self._announce(url) for url in self._urls]  # every router hears of it, whatever the first says
        self._next_at = time.monotonic() + INTERVAL_S
        return any(answers)

    def ask_ahead(self) -> None:
        """Ask each router whether it would take the worker, which is about to start, and say what is against it: a
        start may take minutes."""
        for url in self._urls:
            if (reply := self._put(f"{url}?check")) is not None and not reply.is_success:
                self._tell_refusal(url, reply)

    def leave(self, timeout_s: float, *, besides: str | None = None) -> None:
        """Tell each router that took the worker that it leaves; each answers when its calls have ended, within
        `timeout_s`, a second at least. One that refused it may have another worker of its name, which stays; `besides`
        is not told."""
        timeout_s = max(timeout_s, _TIMEOUT_S)  # who gives calls no time must still let the routers hear of it
        urls = [url for url in self._urls if url in self._joined and not url.startswith(f"{besides}/workers/")]
        # At once: while one lets its calls end, no other may send further ones.
        with ThreadPoolExecutor(max_workers=max(1, len(urls))) as pool:
            list(pool.map(lambda url: self._leave(url, timeout_s), urls))

    def _leave(self, url: str, timeout_s: float) -> None:
        try:
            with direct_client(headers=self._headers, timeout=timeout_s) as client:
                client.delete(url)
        except httpx.HTTPError as error:
            self._tell(url, f"did not answer that this worker leaves ({type(error).__name__}): it finds out by itself")

    def _announce(self, url: str) -> bool:
        if (reply := self._put(url)) is None:
            return False
        self._joined.discard(url)
        told = _read_object(reply) if reply.is_success else None
        if told is not None:
            self._joined.add(url)
            self._tell(url, "knows this worker")
            if (order := told.get("order")) is not None:
                self.order = (_router_of(url), order)
        elif reply.is_success:
            self._tell(url, f"does not answer as a router (status {reply.status_code}): is that its address?")
        elif reply.status_code != httpx.codes.GONE:
            self._tell_refusal(url, reply)
        return reply.status_code == httpx.codes.GONE

    def _put(self, url: str) -> httpx.Response | None:
        """Return what a router answers to the description of the worker; None, and say so, where it does not."""
        try:
            with direct_client(headers=self._headers, timeout=_TIMEOUT_S) as client:
                return client.put(url, json=self._worker)
        except httpx.HTTPError as error:
            reason = f"does not answer ({type(error).__name__}): asked again every {INTERVAL_S:g} s"
            self._tell(url.removesuffix("?check"), reason)
            return None

    def _tell_refusal(self, url: str, reply: httpx.Response) -> None:
        if reply.status_code == httpx.codes.UNAUTHORIZED:
            self._tell(url, "wants another admin key: give this worker the one that the router was started with")
        else:
            self._tell(url, f"refuses this worker: {_read_error(reply)}")

    def _tell(self, url: str, text: str) -> None:
        """Say what has changed since the last time."""
        if self._said.get(url) != text:
            self._said[url] = text
            self._say(f"{_router_of(url)} {text}")


def _router_of(url: str) -> str:
    return url.partition("/workers/")[0]


def _read_object(reply: httpx.Response) -> dict[str, Any] | None:
    """What a router says; None of a server of another kind."""
    try:
        told = reply.json()
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _read_error(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {reply.status_code}"
