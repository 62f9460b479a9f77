"""What the router tells of the whole deployment: its own counts, and those of the workers, whom it asks each time.

The router sees calls, queues, cache hits (the prefill leg's report) and the time of a whole call; generated tokens and
the time between them only the decode workers see, since answers pass through unread. A worker that does not answer
within `ASK_TIMEOUT_S` costs nobody more than that; its counters stay as they were, its memory is unknown.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson

from prefillshare.contract import RESTARTS_VARIABLE
from prefillshare.observe.document import STATE_PATH, DeploymentState, WorkerState, no_tokens
from prefillshare.observe.exposition import exposition
from prefillshare.observe.observer import Observer
from prefillshare.observe.relabel import merged
from prefillshare.observe.reports import WorkerReport
from prefillshare.observe.state import ModuleFacts, deployment_state, worker_state
from prefillshare.routing.call.proxy import Proxy
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.workers.client import WorkerClient
from prefillshare.routing.workers.worker import Worker, WorkerPool

ASK_TIMEOUT_S = 1.5


class Monitor:
    """Builds the state of the deployment and its metrics."""

    def __init__(
        self,
        settings: RouterSettings,
        observer: Observer,
        *,
        pool: WorkerPool,
        client: WorkerClient,
        sessions: Sessions,
        admission: Admission,
        proxy: Proxy,
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._pool = pool
        self._client = client
        self._sessions = sessions
        self._admission = admission
        self._proxy = proxy
        self._reports: dict[str, WorkerReport] = {}
        self._asking = asyncio.Lock()

    async def state(self) -> DeploymentState:
        """Return the document of `/deployment/state`."""
        async with self._asking:
            workers = list(self._pool)
            told = await asyncio.gather(*(self._ask(worker) for worker in workers))
            for worker, document in zip(workers, told, strict=True):
                if document is not None:
                    self._take(worker, document)
        entries = [self._entry(worker, document) for worker, document in zip(workers, told, strict=True)]
        return self._document([*entries, self._own_entry()])

    async def metrics(self) -> bytes:
        """Return Prometheus' text: the state, then SGLang's metrics of every worker that answers."""
        asked = asyncio.gather(*(self._sglang_metrics(worker) for worker in self._pool))
        state, texts = await asyncio.gather(self.state(), asked)
        return exposition(state) + merged(texts).encode()

    def _document(self, workers: list[WorkerState]) -> DeploymentState:
        counters = self._proxy.counters
        state = deployment_state(
            self._observer,
            name=self._settings.deployment or self._settings.base_model,
            topology="disaggregated",
            prefill_module=self._settings.base_model,
            modules=[self._facts(name) for name in self._pool.modules()],
            workers=workers,
            repins=self._sessions.num_repins,
        )
        return {**state, "refusals": counters.refused, "retries": counters.retries}

    def _facts(self, module: str) -> ModuleFacts:
        is_lora = any(worker.is_adapter for worker in self._pool.replicas(module))
        return ModuleFacts(
            name=module,
            kind="lora" if is_lora else "full",
            is_prefill_module=False,
            queued=self._admission.num_queued(module),
            warning=self._pool.warning(module),
        )

    async def _ask(self, worker: Worker) -> DeploymentState | None:
        content = await self._fetch(worker, STATE_PATH)
        try:
            return None if content is None else orjson.loads(content)
        except orjson.JSONDecodeError:
            return None  # as if it had not answered

    async def _sglang_metrics(self, worker: Worker) -> str:
        labels = {"worker": worker.id, "role": worker.spec.role, "module": worker.spec.module or ""}
        content = await self._fetch(worker, f"/metrics?{urlencode(labels)}")
        return "" if content is None else content.decode(errors="replace")

    async def _fetch(self, worker: Worker, path: str) -> bytes | None:
        if worker.state not in ("up", "draining"):
            return None
        try:
            status, content = await self._client.fetch(worker, path, timeout_s=ASK_TIMEOUT_S)
        except (aiohttp.ClientError, OSError, TimeoutError, ShortageError):
            return None
        return content if status == 200 else None

    def _take(self, worker: Worker, told: DeploymentState) -> None:
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
            handoff=report.handoffs.as_dict(),
        )

    def _own_entry(self) -> WorkerState:
        """The router computes no tokens itself."""
        return worker_state(
            id="router",
            role="router",
            module=None,
            url=f"http://{self._settings.host}:{self._settings.port}",
            pid=os.getpid(),
            state="up",
            restarts=int(os.getenv(RESTARTS_VARIABLE) or 0),
            totals=no_tokens(),
            running=self._proxy.num_running,
            queued=self._admission.num_queued(),
            kv=None,
            handoff=None,
        )
