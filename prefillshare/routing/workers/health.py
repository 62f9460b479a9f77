"""Whether workers are up: a probe per worker, and what calls tell about the workers they met."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import aiohttp
import orjson

from prefillshare.config.router import Router
from prefillshare.errors import ServerError
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.workers.client import LegFailedError, WorkerClient
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.errors import error_text

log = logging.getLogger(__name__)

_STARTING_INTERVAL_S = 0.5
"""Pause between probes of a worker that is not up: a call may be waiting for it."""


class Health:
    """Keeps the state of every worker true."""

    def __init__(self, settings: Router, client: WorkerClient, base: str, *, changed: Callable[[Worker], None]) -> None:
        self._settings = settings
        self._client = client
        self._base = base
        self._changed = changed
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._hurry: dict[str, asyncio.Event] = {}

    def watch(self, worker: Worker) -> None:
        """Begin to probe `worker`."""
        self._hurry[worker.id] = asyncio.Event()
        self._probes[worker.id] = asyncio.create_task(self._keep_probing(worker, self._hurry[worker.id]))

    async def unwatch(self, worker: Worker) -> None:
        """Stop probing `worker`."""
        probe = self._probes.pop(worker.id)
        del self._hurry[worker.id]
        probe.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probe

    def succeeded(self, worker: Worker) -> None:
        """A call was answered by `worker`."""
        worker.breaker.succeeded()

    def failed(self, error: LegFailedError) -> None:
        """A call failed by a worker's fault."""
        worker = error.worker
        log.warning("%s", error)
        worker.num_failed += 1
        if error.counts:
            worker.breaker.failed()
        else:
            worker.breaker.undecided()
        if error.is_unreachable and worker.state == "up":
            self._set_down(worker, str(error))
        if hurry := self._hurry.get(worker.id):
            hurry.set()

    async def _keep_probing(self, worker: Worker, hurry: asyncio.Event) -> None:
        num_failures = 0
        while True:
            hurry.clear()
            with contextlib.suppress(ShortageError):  # which tells nothing about the worker
                reason = await self._probe(worker)
                num_failures = num_failures + 1 if reason else 0
                if worker.state != "draining":
                    self._apply(worker, reason, num_failures)
            pause_s = self._settings.health_interval_s if worker.state == "up" else _STARTING_INTERVAL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await hurry.wait()
            await asyncio.sleep(_STARTING_INTERVAL_S if hurry.is_set() else 0)

    def _apply(self, worker: Worker, reason: str | None, num_failures: int) -> None:
        if reason is None:
            if worker.state != "up":
                log.info("%s worker %s is up", worker.spec.role, worker.id)
                worker.set_state("up")
                worker.breaker.succeeded()
                self._changed(worker)
        elif worker.state == "up" and num_failures >= self._settings.health_failures:
            self._set_down(worker, reason)
        elif worker.state != "up":
            worker.reason = reason

    def _set_down(self, worker: Worker, reason: str) -> None:
        log.warning("%s worker %s is down: %s", worker.spec.role, worker.id, reason)
        worker.set_state("down", reason)
        self._changed(worker)

    async def _probe(self, worker: Worker) -> str | None:
        """Return why `worker` cannot serve, or None.

        Raises: ShortageError when the router could not ask.
        """
        # A worker that sends tokens is alive, and its own health check would only wait for the same tokens.
        if worker.state == "up" and time.monotonic() - worker.last_byte_at < self._settings.health_interval_s:
            return None
        timeout_s = self._settings.health_timeout_s
        try:
            status, content = await self._client.fetch(worker, "/health", timeout_s=timeout_s)
            if status != 200:
                return f"/health answered {status}: {error_text(content)}"
            if worker.state == "starting" or worker.state == "down":
                status, content = await self._client.fetch(worker, "/v1/models", timeout_s=timeout_s)
                self._read_models(worker, status, content)
        except TimeoutError:
            return f"it did not answer within {timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ServerError) as error:
            return str(error) or type(error).__name__
        return None

    def _read_models(self, worker: Worker, status: int, content: bytes) -> None:
        """Check that `worker` serves what it is said to, and note whether its module is an adapter.

        Raises: ServerError.
        """
        wanted = worker.spec.module or self._base
        try:
            cards = {card["id"]: card for card in orjson.loads(content)["data"]} if status == 200 else {}
        except (ValueError, TypeError, KeyError):
            cards = {}
        if wanted not in cards:
            found = ", ".join(map(str, cards)) or f"nothing (/v1/models answered {status}: {error_text(content)})"
            raise ServerError(f"it serves {found} instead of {wanted!r}: correct the worker or its description")
        worker.card = cards[wanted]
        worker.is_adapter = worker.spec.role == "decode" and worker.card.get("parent") is not None
