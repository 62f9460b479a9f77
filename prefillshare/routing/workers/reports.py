"""What the workers tell of themselves, each asked anew every time, all of them at once.

A worker that does not answer within `ASK_TIMEOUT_S` costs nobody more than that; its counters stay as they were, its
memory is unknown.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlencode

from prefillshare.errors import AnswerError
from prefillshare.observe.document import STATE_PATH, DeploymentState, WorkerState
from prefillshare.observe.observer import Observer
from prefillshare.observe.reports import WorkerReport, check_report, held_tokens
from prefillshare.observe.state import worker_state
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.workers.answer import read_object
from prefillshare.routing.workers.client import WorkerClient
from prefillshare.routing.workers.worker import Worker

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 1.5


class WorkerReports:
    """Asks workers for their numbers, and adds up what each has counted over all of its starts."""

    def __init__(self, client: WorkerClient, observer: Observer) -> None:
        self._client = client
        self._observer = observer
        self._reports: dict[str, WorkerReport] = {}
        self._asking = asyncio.Lock()
        self._held: dict[str, Mapping[str, int]] = {}
        self._unreadable: dict[str, str] = {}

    async def ask_states(self, workers: Iterable[Worker]) -> list[WorkerState]:
        """Return the entry of each worker in the deployment's state, as far as it is known."""
        # One round after the other: of two at once, the one that began first could be counted last, and counters fall.
        async with self._asking:
            asked = list(workers)
            told = await asyncio.gather(*(self._ask_state(worker) for worker in asked))
            for worker, document in zip(asked, told, strict=True):
                if document is not None:
                    self._count(worker, document)
            self._held = {
                worker.id: self._held_by(worker, document) for worker, document in zip(asked, told, strict=True)
            }
        return [self._entry(worker, document) for worker, document in zip(asked, told, strict=True)]

    def held(self) -> Mapping[str, int]:
        """Return tokens of KV that the workers hold, by tenants' marks, as each told when it last answered."""
        return sum(map(Counter, self._held.values()), Counter())

    def _held_by(self, worker: Worker, told: DeploymentState | None) -> Mapping[str, int]:
        if told is None:
            return self._held.get(worker.id, {})
        return held_tokens(told)

    async def ask_metrics(self, workers: Iterable[Worker]) -> list[str]:
        """Return SGLang's own metrics of each worker, empty for one that does not answer."""
        return await asyncio.gather(*(self._ask_metrics(worker) for worker in workers))

    async def _ask_state(self, worker: Worker) -> DeploymentState | None:
        content = await self._fetch(worker, STATE_PATH)
        if content is None:
            return None
        try:
            told = cast(DeploymentState, read_object(content))
            check_report(told, worker.spec.module)
        except AnswerError as error:
            # As if it had not answered: what the others tell is told all the same.
            self._note_unreadable(worker, f"{error} ({STATE_PATH})")
            return None
        self._unreadable.pop(worker.id, None)
        return told

    def _note_unreadable(self, worker: Worker, reason: str) -> None:
        if self._unreadable.get(worker.id) != reason:  # once, not with every look
            self._unreadable[worker.id] = reason
            log.warning("%s %s: its numbers are left out", worker.id, reason)

    async def _ask_metrics(self, worker: Worker) -> str:
        labels = {"worker": worker.id, "role": worker.spec.role, "module": worker.spec.module or ""}
        content = await self._fetch(worker, f"/metrics?{urlencode(labels)}")
        return "" if content is None else content.decode(errors="replace")

    async def _fetch(self, worker: Worker, path: str) -> bytes | None:
        if worker.state not in ("up", "draining"):
            return None
        try:
            status, content = await self._client.fetch(worker, path, timeout_s=ASK_TIMEOUT_S)
        except (OSError, TimeoutError, ShortageError):
            return None
        return content if status == 200 else None

    def _count(self, worker: Worker, told: DeploymentState) -> None:
        report = self._reports.setdefault(worker.id, WorkerReport())
        if report.take(told, self._observer, worker.spec.module):
            count = told["workers"][0]["restarts"]
            self._observer.events.tell("restart", worker.id, f"it was started again, {count} times so far")

    def _entry(self, worker: Worker, told: DeploymentState | None) -> WorkerState:
        report = self._reports.get(worker.id) or WorkerReport()
        latest: Mapping[str, Any] = report.latest["workers"][0] if report.latest else {}
        now: Mapping[str, Any] = told["workers"][0] if told else {}
        return worker_state(
            id=worker.id,
            role=worker.spec.role,
            module=worker.spec.module,
            url=worker.spec.url,
            pid=now.get("pid"),
            state=worker.state,
            restarts=latest.get("restarts"),
            totals=report.totals,
            running=now.get("running"),
            queued=now.get("queued"),
            kv=now.get("kv"),
            handoff=None if worker.spec.role == "engine" else report.handoffs.as_dict(),
            store=report.store,
            push=report.push,
            eager=report.eager,
        )
