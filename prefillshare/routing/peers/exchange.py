"""What routers tell each other: every half second each asks all others whether they are there and what they have.

A router counts only its own calls, and a worker's load is what all routers have there: so each tells how many calls it
has at which worker, and how many tokens are still to be computed for them. One question per router and half second
tells that for all workers, however many there are, including calls that a worker has not seen yet.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

import orjson

from prefillshare.errors import ConfigError
from prefillshare.observe.document import WorkerPhase
from prefillshare.routing.http.client import HttpClient
from prefillshare.routing.parts import Parts
from prefillshare.routing.peers.hop import HOP_HEADER, Hops
from prefillshare.routing.peers.peer import NO_LOAD, Load, Peer, Report, add_up, read_report
from prefillshare.wire.errors import error_text

log = logging.getLogger(__name__)

PEER_PATH = "/router/peer"
_PAUSE_S = 0.5
_TIMEOUT_S = 2.0
_MAX_FAILURES = 2
"""Questions in a row without an answer in time after which a router gets no further calls."""
SILENT_S = 10.0
"""A router that was silent for so long is gone with its machine, and so are the calls that were passed on to it."""


class Exchange:
    """Keeps the state of every other router true, and every worker's load with what the others have there."""

    def __init__(
        self,
        parts: Parts,
        hops: Hops,
        http: HttpClient,
        *,
        num_running: Callable[[], int],
        is_moving: Callable[[], bool],
    ) -> None:
        """`num_running` tells how many calls this router has, `is_moving` whether a move of its own is on its way."""
        settings = parts.settings
        self.peers = {address: Peer(address) for address in settings.other_routers}
        self.is_draining = False
        self._parts = parts
        self._hops = hops
        self._http = http
        self._num_running = num_running
        self._is_moving = is_moving
        self._routers = tuple(sorted((settings.own_address, *settings.other_routers)))
        self._added: Mapping[str, Load] = {}
        self._asking = [asyncio.create_task(self._keep_asking(peer)) for peer in self.peers.values()]

    def make_report(self) -> Report:
        """Return what this router tells the others."""
        settings, now = self._parts.settings, time.monotonic()
        loads = {
            worker.id: Load(
                calls=worker.num_running,
                tokens=round(worker.speed.pending_tokens, 1),
                working=worker.num_working_here(now),
            )
            for worker in self._parts.pool
            if worker.num_running
        }
        return Report(
            routers=self._routers,
            prefill_module=settings.fingerprint or settings.base_model,
            is_draining=self.is_draining,
            models=self._find_models(),
            running=self._num_running(),
            queued=self._parts.admission.num_queued(),
            is_moving=self._is_moving(),
            aliases=self._parts.book.digest(),
            at_workers=loads,
        )

    def can_answer(self, model: str) -> bool:
        """Whether this router has workers for `model` that are up: it tells the others of no other model."""
        pool = self._parts.pool
        is_base = model == self._parts.settings.base_model
        return pool.prefill_group.is_available if is_base else pool.can_answer(model)

    def _find_models(self) -> tuple[str, ...]:
        names = (self._parts.settings.base_model, *self._parts.pool.modules())
        return tuple(filter(self.can_answer, names))

    async def close(self) -> None:
        """Ask no more."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    def lose(self, peer: Peer, reason: str) -> None:
        """Note that nobody listens at the address of `peer`."""
        self._set_state(peer, "down", reason)
        peer.hurry.set()

    async def tell_flushed(self, worker_ids: list[str]) -> None:
        """Tell the others that the caches of these workers were emptied; who does not hear it finds out by itself."""
        await asyncio.gather(*(self._tell(peer, {"flushed": worker_ids}) for peer in self.peers.values()))

    async def tell_aliases(self) -> dict[str, str | None]:
        """Tell the others what has changed about the aliases; return by address why one has not taken it.

        One that is away hears of it when it is back.
        """
        peers = self.peers.values()
        told = await asyncio.gather(*(self._tell_aliases(peer) for peer in peers))
        return {peer.address: reason for peer, reason in zip(peers, told, strict=True)}

    async def _tell_aliases(self, peer: Peer) -> str | None:
        if peer.state == "down":
            return f"it does not answer ({peer.reason}), and hears of it when it does"
        answer = await self._tell(peer, {"aliases": self._parts.book.as_dict()})
        if answer is None:
            return "it did not answer in time, and hears of it when it does"
        lacks = _read_refused(*answer)
        if lacks and lacks != peer.lacks:
            log.warning("%s does not take the aliases of this router: %s", peer.name, lacks)
        peer.lacks = lacks
        return lacks or None

    async def _tell(self, peer: Peer, content: Mapping[str, object]) -> tuple[int, bytes] | None:
        """Return status and content of the answer; None when none came in time."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._request(peer, "PUT", orjson.dumps(content))
        return None

    async def _request(self, peer: Peer, method: str, body: bytes = b"") -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", HOP_HEADER: self._hops.mark_for(peer.address)}
        reply = await self._http.request(method, peer.address, PEER_PATH, headers=headers, body=body)
        content = await reply.read()
        return reply.status, content

    async def _keep_asking(self, peer: Peer) -> None:
        num_failures, heard_at = 0, time.monotonic()
        while True:
            peer.hurry.clear()
            try:
                report = await self._ask(peer)
                self._take(peer, report)
                await self._level_aliases(peer, report)
                num_failures, heard_at = 0, time.monotonic()
            except (OSError, ConfigError) as error:
                # TimeoutError is an OSError: a busy router may be late once.
                num_failures += 1
                is_late = isinstance(error, TimeoutError) and num_failures < _MAX_FAILURES
                if not (is_late and peer.state == "up"):
                    self._set_state(peer, "down", _describe(error))
            if time.monotonic() - heard_at > SILENT_S:
                peer.cut_off()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await peer.hurry.wait()
            # A router that fails call after call is asked no more often than this.
            await asyncio.sleep(_PAUSE_S / 5 if peer.hurry.is_set() else 0)

    async def _ask(self, peer: Peer) -> Report:
        """Return what `peer` tells.

        Raises: OSError; ConfigError when it is no router of this deployment.
        """
        async with asyncio.timeout(_TIMEOUT_S):
            status, content = await self._request(peer, "GET")
        if status != 200:
            raise ConfigError(f"it answered {status}: {error_text(content)}")
        try:
            report = read_report(orjson.loads(content))
        except orjson.JSONDecodeError:
            raise ConfigError("it answers, but not as a router: correct its address") from None
        own = self._parts.settings.fingerprint or self._parts.settings.base_model
        if report.prefill_module != own:
            raise ConfigError(f"it has the prefill module {report.prefill_module}, this router {own}")
        return report

    async def _level_aliases(self, peer: Peer, report: Report) -> None:
        """Tell a router that was away, or has others, what has changed here; it tells this one likewise."""
        own = self._parts.book.digest()
        if own and own != report.aliases:
            await self._tell_aliases(peer)

    def _take(self, peer: Peer, report: Report) -> None:
        if report.routers != self._routers and (peer.report is None or peer.report.routers != report.routers):
            # Each finds owners among those it knows: a session then has several, and its calls meet no single memory.
            log.warning(
                "%s knows the routers %s, this one %s: give all the same --peers",
                peer.name,
                ", ".join(report.routers),
                ", ".join(self._routers),
            )
        peer.report = report
        self._set_state(peer, "draining" if report.is_draining else "up", "")
        self._add_loads()

    def _set_state(self, peer: Peer, state: WorkerPhase, reason: str) -> None:
        has_changed = peer.state != state
        peer.state, peer.reason = state, reason
        if state == "down" and peer.report is not None:
            peer.report = None
            self._add_loads()
        if has_changed:
            log.info("%s is %s%s", peer.name, state, f": {reason}" if reason else "")
            self._tell_people(peer)

    def _tell_people(self, peer: Peer) -> None:
        events = self._parts.observer.events
        if peer.state == "up":
            events.tell("worker_up", peer.name, "the router answers calls")
        else:
            events.tell("worker_down", peer.name, peer.reason or "the router is stopping")

    def _add_loads(self) -> None:
        """Let every worker know what the other routers have there."""
        added = add_up(self.peers.values())
        for name in self._added.keys() | added.keys():
            before, now = self._added.get(name, NO_LOAD), added.get(name, NO_LOAD)
            worker = self._parts.pool.get(name)
            if worker is not None and before != now:
                worker.note_elsewhere(now.calls, now.tokens, now.working)
        self._added = added
        self._parts.admission.start_waiting()  # somebody may have room that had none


def _read_refused(status: int, content: bytes) -> str:
    """Return why another router does not take aliases, by its answer; empty where it does."""
    if status != 200:
        return error_text(content)
    try:
        return "; ".join(map(str, orjson.loads(content)["refused"].values()))
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return "it answers, but not as a router: correct its address"


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it did not answer within {_TIMEOUT_S:g} s"
    return str(error) or type(error).__name__
