"""Whether workers are up: a probe per worker, and what calls tell about the workers they met."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from prefillshare.config.router import Router
from prefillshare.errors import ServerError
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.workers.client import WorkerClient
from prefillshare.routing.workers.leg import LegFailedError
from prefillshare.routing.workers.worker import ModelCard, Worker
from prefillshare.wire.errors import error_text

log = logging.getLogger(__name__)

_STARTING_INTERVAL_S = 0.5
"""Pause between probes of a worker that is not up: a call may be waiting for it."""


class Health:
    """Keeps the state of every worker true: one task for each probes it, sooner when a call has failed there."""

    def __init__(
        self, settings: Router, client: WorkerClient, base: str, *, on_changed: Callable[[Worker], None]
    ) -> None:
        """`on_changed` hears of each worker that is up or down now."""
        self._settings = settings
        self._client = client
        self._base = base
        self._on_changed = on_changed
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

    def record_success(self, worker: Worker) -> None:
        """Hear that `worker` answered a call."""
        worker.breaker.record_success()

    def record_failure(self, error: LegFailedError) -> None:
        """Hear that a call failed by a worker's fault; the worker is probed soon."""
        worker = error.worker
        log.warning("%s", error)
        worker.num_failed += 1
        if error.counts:
            worker.breaker.record_failure()
        else:
            worker.breaker.record_nothing()
        if error.is_unreachable and worker.state == "up":
            self._set_down(worker, str(error))
        if hurry := self._hurry.get(worker.id):
            hurry.set()

    async def _keep_probing(self, worker: Worker, hurry: asyncio.Event) -> None:
        num_failures = 0
        while True:
            hurry.clear()  # before the probe: a call that fails while it runs asks for the next one
            with contextlib.suppress(ShortageError):  # which tells nothing about the worker
                reason = await self._probe(worker)
                num_failures = num_failures + 1 if reason else 0
                # One that was told to leave stays so, whatever it answers, until it is forgotten.
                if worker.state != "draining":
                    self._apply(worker, reason, num_failures)
            pause_s = self._settings.health_interval_s if worker.state == "up" else _STARTING_INTERVAL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await hurry.wait()
            # A worker that fails call after call sets the event after each: it is probed no more often than this.
            await asyncio.sleep(_STARTING_INTERVAL_S if hurry.is_set() else 0)

    def _apply(self, worker: Worker, reason: str | None, num_failures: int) -> None:
        if reason is None:
            if worker.state != "up":
                log.info("%s %s is up", worker.spec.kind, worker.id)
                worker.set_state("up")
                worker.breaker.record_success()
                self._on_changed(worker)
        elif worker.state == "up" and num_failures >= self._settings.health_failures:
            self._set_down(worker, reason)
        elif worker.state != "up":
            worker.reason = reason

    def _set_down(self, worker: Worker, reason: str) -> None:
        log.warning("%s %s is down: %s", worker.spec.kind, worker.id, reason)
        worker.set_state("down", reason)
        self._on_changed(worker)

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
        except (OSError, ServerError) as error:
            return str(error) or type(error).__name__
        return None

    def _read_models(self, worker: Worker, status: int, content: bytes) -> None:
        """Check that `worker` serves what it is said to, and note what it says of its module.

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
        worker.card = _read_card(cards[wanted])


def _read_card(card: Mapping[str, Any]) -> ModelCard:
    length, warning = card.get("max_model_len"), card.get("warning")
    return ModelCard(
        is_adapter=card.get("parent") is not None,
        max_model_len=length if isinstance(length, int) else None,
        warning=warning if isinstance(warning, str) else None,
    )
