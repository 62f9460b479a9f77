"""HTTP towards the workers: one pooled client, and every way in which a leg can fail, named."""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from typing import Any, TypedDict

import orjson

from prefillshare.config.router import Router
from prefillshare.errors import AnswerError
from prefillshare.routing.descriptors import Descriptors, is_own_shortage
from prefillshare.routing.http.client import HttpClient
from prefillshare.routing.http.errors import BrokenOffError, CannotConnectError, ConnectTimeoutError
from prefillshare.routing.workers.answer import Answer, check_json, read_answer
from prefillshare.routing.workers.leg import Leg, LegFailedError
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.errors import error_text

_ABORT_TIMEOUT_S = 5.0
_ABORTS_AT_ONCE = 4
"""To one worker, for one leg."""


class Reply(TypedDict):
    """What a worker said to a request outside any call."""

    status: int
    """HTTP status; 0 when there was no answer."""
    text: str
    """The error's message, or why there was no answer."""


class WorkerClient:
    """Sends requests to workers."""

    def __init__(self, settings: Router, api_key: str | None, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._http = HttpClient(settings.connect_timeout_s)
        # The loop keeps only weak references to tasks: without these, an abort could vanish half-sent.
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for what is still being told to workers, then close all connections."""
        if self._background:
            await asyncio.wait(self._background, timeout=_ABORT_TIMEOUT_S)
        self._http.close()

    def forget(self, worker: Worker) -> None:
        """Keep no connection to `worker`, which has left."""
        self._http.forget(worker.base_url)

    async def send(self, leg: Leg, headers: Mapping[str, str], *, is_stream: bool) -> Answer:
        """Send `leg` and return its answer; of a stream, once its first piece is there.

        Raises: LegFailedError when the worker cannot be reached, breaks off, answers with its own failure, or with
        what is no answer; ShortageError when there was no connection by the router's fault.
        """
        worker = leg.worker
        try:
            reply = await self._http.request(
                "POST",
                worker.base_url,
                leg.path,
                headers={**self._headers, **worker.headers, **leg.headers, **headers},
                body=leg.body,
                is_stream=is_stream,
            )
            answer = await read_answer(reply, is_stream=is_stream)
        except CannotConnectError as error:
            self._raise_own_shortage(worker, error)
            raise LegFailedError(worker, f"does not take connections ({error.strerror})", is_unreachable=True) from None
        except ConnectTimeoutError:
            # The machine, or this router, may just have been busy: the next try, the probe and the breaker tell.
            raise LegFailedError(worker, "did not take a connection in time") from None
        except BrokenOffError as error:
            raise LegFailedError(worker, f"broke off the connection ({error})", is_broken_off=True) from None
        worker.last_byte_at = time.monotonic()
        if answer.status >= 500:
            # 500 is an answer about this one call; the others say that the worker as a whole cannot serve.
            what = f"answered {answer.status}: {error_text(answer.content)}"
            raise LegFailedError(worker, what, counts=answer.status != 500)
        if answer.status == 200 and not is_stream:
            _read(leg, answer)
        return answer

    async def fetch(
        self, worker: Worker, path: str, *, method: str = "GET", body: bytes = b"", timeout_s: float
    ) -> tuple[int, bytes]:
        """Return status and body of a request outside any call.

        Raises: OSError, also for one that takes longer than `timeout_s`; ShortageError, which tells nothing of the
        worker.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._fetch(worker, path, method, body)
        except OSError as error:
            self._raise_own_shortage(worker, error)
            raise

    async def _fetch(self, worker: Worker, path: str, method: str, body: bytes = b"") -> tuple[int, bytes]:
        reply = await self._http.request(
            method, worker.base_url, path, headers={**self._headers, **worker.headers}, body=body
        )
        content = await reply.read()
        return reply.status, content

    async def ask_all(self, workers: Iterable[Worker], path: str, *, method: str, timeout_s: float) -> dict[str, Reply]:
        """Send a request to each of `workers` at once; return what they said, by worker id.

        Raises: ShortageError.
        """
        asked = list(workers)
        replies = await asyncio.gather(*(self._ask(worker, path, method, timeout_s) for worker in asked))
        return {worker.id: reply for worker, reply in zip(asked, replies, strict=True)}

    async def _ask(self, worker: Worker, path: str, method: str, timeout_s: float) -> Reply:
        try:
            status, content = await self.fetch(worker, path, method=method, timeout_s=timeout_s)
        except TimeoutError:
            return {"status": 0, "text": f"no answer within {timeout_s:g} s"}
        except OSError as error:
            return {"status": 0, "text": str(error)}
        return {"status": status, "text": error_text(content) if content else ""}

    def abort(self, leg: Leg) -> None:
        """Tell the worker to abort `leg`, without waiting for it.

        Closing the connection does that too, but SGLang looks for closed connections only every few seconds.
        """
        rids = iter(leg.rids)
        # Some at a time: a batch has thousands, and connections for all of them would be missed elsewhere.
        for _ in range(min(len(leg.rids), _ABORTS_AT_ONCE)):
            self._run(self._abort(leg.worker, rids))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _abort(self, worker: Worker, rids: Iterator[str]) -> None:
        for rid in rids:
            try:
                async with asyncio.timeout(_ABORT_TIMEOUT_S):
                    await self._fetch(worker, "/abort_request", "POST", orjson.dumps({"rid": rid}))
            except TimeoutError:
                continue  # one that stands still may hear of the next
            except OSError:
                return  # a worker that cannot be told has nothing running, or is about to be found dead

    def _raise_own_shortage(self, worker: Worker, error: OSError) -> None:
        if is_own_shortage(error):
            raise self._descriptors.cannot_connect(worker.id, error) from None


def _read(leg: Leg, answer: Answer) -> None:
    """Read of a whole answer what the router needs of it.

    Raises: LegFailedError.
    """
    try:
        if leg.read is None:
            check_json(answer.content)
        else:
            answer.told = leg.read(answer.content)
    except AnswerError as error:
        raise LegFailedError(leg.worker, str(error)) from None
