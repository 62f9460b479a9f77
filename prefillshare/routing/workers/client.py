"""HTTP towards the workers: one pooled client, and every way in which a leg can fail, named."""

import asyncio
import io
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypedDict

import aiohttp
import orjson

from prefillshare.config.router import Router
from prefillshare.routing.descriptors import Descriptors, is_own_shortage
from prefillshare.routing.workers.answer import Answer, read_answer
from prefillshare.routing.workers.leg import Leg, LegFailedError
from prefillshare.routing.workers.sockets import open_socket
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.errors import error_text

# SGLang closes a connection that was idle for 5 s; reusing one at that moment would fail the call.
_KEEPALIVE_S = 3.0
_ABORT_TIMEOUT_S = 5.0
_LARGE_BODY_BYTES = 1 << 18


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
        self._http = make_session(settings)
        # The loop keeps only weak references to tasks: without these, an abort could vanish half-sent.
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for what is still being told to workers, then close all connections."""
        if self._background:
            await asyncio.wait(self._background, timeout=_ABORT_TIMEOUT_S)
        await self._http.close()

    async def send(self, leg: Leg, headers: Mapping[str, str], *, is_stream: bool) -> Answer:
        """Send `leg` and return its answer; of a stream, once its first piece is there.

        Raises: LegFailedError when the worker cannot be reached, breaks off, or answers with its own failure;
        ShortageError when there was no connection by the router's fault.
        """
        worker = leg.worker
        try:
            reply = await self._http.post(
                worker.base_url + leg.path,
                data=as_payload(leg.body),
                headers={**self._headers, **worker.headers, **leg.headers, **headers},
            )
            answer = await read_answer(reply, is_stream=is_stream)
        except aiohttp.ClientConnectorError as error:
            self._raise_own_shortage(worker, error)
            raise LegFailedError(worker, f"does not take connections ({error.strerror})", is_unreachable=True) from None
        except aiohttp.ServerTimeoutError:
            # The machine, or this router, may just have been busy: the next try, the probe and the breaker tell.
            raise LegFailedError(worker, "did not take a connection in time") from None
        except (aiohttp.ClientError, OSError) as error:
            self._raise_own_shortage(worker, error)
            reason = str(error) or type(error).__name__
            raise LegFailedError(worker, f"broke off the connection ({reason})", is_broken_off=True) from None
        worker.last_byte_at = time.monotonic()
        if answer.status >= 500:
            # 500 is an answer about this one call; the others say that the worker as a whole cannot serve.
            what = f"answered {answer.status}: {error_text(answer.content)}"
            raise LegFailedError(worker, what, counts=answer.status != 500)
        return answer

    async def fetch(self, worker: Worker, path: str, *, method: str = "GET", timeout_s: float) -> tuple[int, bytes]:
        """Return status and body of a request outside any call.

        Raises: aiohttp.ClientError, OSError or TimeoutError; ShortageError, which tells nothing about the worker.
        """
        try:
            async with asyncio.timeout(timeout_s):
                headers = {**self._headers, **worker.headers}
                async with self._http.request(method, worker.base_url + path, headers=headers) as reply:
                    return reply.status, await reply.read()
        except OSError as error:
            self._raise_own_shortage(worker, error)
            raise

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
        except (aiohttp.ClientError, OSError) as error:
            return {"status": 0, "text": str(error)}
        return {"status": status, "text": error_text(content) if content else ""}

    def abort(self, leg: Leg) -> None:
        """Tell the worker to abort `leg`, without waiting for it.

        Closing the connection does that too, but SGLang looks for closed connections only every few seconds.
        """
        for rid in leg.rids:
            self._run(self._abort(leg.worker, rid))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _abort(self, worker: Worker, rid: str) -> None:
        url, body = worker.base_url + "/abort_request", orjson.dumps({"rid": rid})
        try:
            async with asyncio.timeout(_ABORT_TIMEOUT_S):
                async with self._http.post(url, data=body, headers={**self._headers, **worker.headers}) as reply:
                    await reply.read()
        except (aiohttp.ClientError, OSError):
            return  # a worker that cannot be told has nothing running, or is about to be found dead

    def _raise_own_shortage(self, worker: Worker, error: BaseException) -> None:
        if is_own_shortage(error):
            assert isinstance(error, OSError)
            raise self._descriptors.cannot_connect(worker.id, error) from None


def make_session(settings: Router) -> aiohttp.ClientSession:
    """Return an HTTP client towards servers of the deployment; whoever has it closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S, socket_factory=open_socket),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=2**20,
    )


def as_payload(body: bytes) -> bytes | io.BytesIO:
    """Return `body` as it is sent."""
    # A file is written piece by piece, so that other calls are served in between.
    return io.BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body
