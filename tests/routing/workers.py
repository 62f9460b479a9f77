"""Small HTTP workers that speak a worker's protocol, and a router before them, all in the test's event loop.

A decode worker answers only after the prefill leg of the same bootstrap room has come in somewhere, as in the real
hand-off; an engine answers alone, and reports in a header. What a worker is to do wrong is set on it.
"""

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from prefillshare.config.router import Router
from prefillshare.contract import CONTINUATION_PATH, EAGER_HEADER, PUSH_RID_PREFIX, REPORT_HEADER
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.parts import Parts
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.web.app import make_app
from prefillshare.routing.web.connections import make_runner
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.wire.from_router import MEMBER

BASE = "base"


class Rooms:
    """The bootstrap rooms that prefill legs have opened."""

    def __init__(self) -> None:
        self._rooms: dict[int, asyncio.Event] = {}

    def __getitem__(self, room: int) -> asyncio.Event:
        return self._rooms.setdefault(room, asyncio.Event())


@dataclass(eq=False)
class SmallWorker:
    """One worker; change its attributes to make it misbehave."""

    id: str
    role: str
    rooms: Rooms
    module: str | None = None
    is_adapter: bool = False
    status: int = 200
    eager_status: int = 200
    error_body: dict[str, Any] | None = None
    error_event: dict[str, Any] | None = None
    pieces: Sequence[str] = ("one", "two", "three")
    answer: dict[str, Any] | None = None
    pause_s: float = 0.0
    end_s: float = 0.0
    prefill_s: float = 0.0
    eager_s: float = 0.0  # beside prefill_s, for what comes before anybody asked
    first_byte_s: float = 0.0
    refusal_s: float = 0.0
    drops_calls: bool = False
    gate: asyncio.Semaphore | None = None  # each piece of a stream waits for it, and so does the end
    break_after: int | None = None
    terminator: str = "\n\n"
    api_key: str | None = None
    garbage: bytes | None = None  # the answer to everything but probes
    is_healthy: bool = True
    warning: str | None = None
    told: dict[str, Any] | None = None
    state_s: float = 0.0
    hits: dict[str, int] | None = None
    continuation: dict[str, Any] | None = None
    continuation_gate: asyncio.Event | None = None
    knows_rids: bool = False
    gives_up: bool = False
    gives_pushes_up: bool = False
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    running: int = 0
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def spec(self) -> WorkerSpec:
        bootstrap = {"bootstrap_host": "127.0.0.1", "bootstrap_port": 8998} if self.role == "prefill" else {}
        url = f"http://127.0.0.1:{self.port}"
        return WorkerSpec(id=self.id, role=self.role, module=self.module, url=url, **bootstrap)  # type: ignore[arg-type]

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Bodies of what came for a call."""
        return [body for body in self.bodies if body not in self.eager]

    @property
    def eager(self) -> list[dict[str, Any]]:
        """Bodies of what came before anybody asked."""
        return [
            body
            for body, headers in zip(self.bodies, self.headers, strict=True)
            if EAGER_HEADER in headers or str(body["rid"]).startswith(PUSH_RID_PREFIX)
        ]

    async def start(self, listener: socket.socket | None = None) -> None:
        """Take connections at its port, or of a socket that listens already."""
        app = web.Application(client_max_size=2**30, middlewares=(self._answer_garbage,))
        for path in ("/v1/chat/completions", "/v1/completions", "/generate", "/v1/messages", "/v1/responses"):
            app.router.add_post(path, self._call)
        app.router.add_get("/health", self._health)
        app.router.add_get("/health_generate", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/model_info", self._model_info)
        app.router.add_get("/deployment/state", self._state)
        app.router.add_get(CONTINUATION_PATH, self._continue)
        app.router.add_post("/flush_cache", self._health)
        app.router.add_post("/abort_request", self._abort)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        if listener is None:
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        else:
            await web.SockSite(self._runner, listener).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _answer_garbage(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.garbage is None or request.path in ("/health", "/v1/models", "/abort_request"):
            return await handler(request)
        return web.Response(body=self.garbage, content_type="text/event-stream")

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_healthy else 503)

    async def _models(self, request: web.Request) -> web.Response:
        cards = [{"id": self.module if self.module and not self.is_adapter else BASE, "max_model_len": 512}]
        if self.is_adapter:
            cards.append({"id": self.module, "parent": BASE, "max_model_len": None})
        return web.json_response({"object": "list", "data": [{**card, "warning": self.warning} for card in cards]})

    async def _model_info(self, request: web.Request) -> web.Response:
        return web.json_response({"model_path": self.id, "is_generation": True})

    async def _state(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.state_s)
        return web.json_response(self.told, status=404 if self.told is None else 200)

    async def _continue(self, request: web.Request) -> web.Response:
        self.asked.append(request.query["rid"])
        if self.continuation_gate is not None:
            await self.continuation_gate.wait()
        if self.continuation is None:
            error = {"message": "no", "type": "not_found", "param": "rid" if self.knows_rids else None, "code": None}
            return web.json_response({"error": error}, status=404)
        return web.json_response(self.continuation)

    async def _abort(self, request: web.Request) -> web.Response:
        self.aborted.append((await request.json())["rid"])
        return web.Response()

    async def _call(self, request: web.Request) -> web.StreamResponse:
        if self.api_key is not None:
            assert request.headers["Authorization"] == f"Bearer {self.api_key}"
        given = await request.json()
        # What the router says beside a client's body, where that has no place for it.
        body = given | given.get(MEMBER, {})
        self.bodies.append(body)
        self.headers.append(request.headers)
        self.running += 1
        try:
            return await (self._prefill(request, body) if self.role == "prefill" else self._decode(request, body))
        except (asyncio.CancelledError, ConnectionResetError) as error:
            # That the router left shows at the next write, or before.
            self.cut_off.append(body["rid"])
            raise asyncio.CancelledError from error
        finally:
            self.running -= 1

    def _failure(self, status: int | None = None) -> web.Response:
        status = status or self.status
        error = {"message": f"{self.id} says {status}", "type": "x", "param": None, "code": None}
        return web.json_response(self.error_body or {"error": error}, status=status)

    async def _prefill(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.status != 200:
            return self._failure()
        if self.eager_status != 200 and body in self.eager:
            return self._failure(self.eager_status)
        await asyncio.sleep(self.prefill_s + (self.eager_s if self.eager_s and body in self.eager else 0.0))
        if self.gives_pushes_up and str(body["rid"]).startswith(PUSH_RID_PREFIX):
            return web.json_response({"meta_info": {"finish_reason": {"type": "abort", "message": "no room"}}})
        if "logprob_start_len" in body:
            return web.json_response({"meta_info": {"prompt_tokens": 40, "input_token_logprobs": [[-1.0, 5, "a"]]}})
        rooms = body["bootstrap_room"]
        for room in rooms if isinstance(rooms, list) else [rooms]:
            self.rooms[room].set()
        if self.gives_up and body in self.eager:
            return web.json_response({"meta_info": {"finish_reason": {"type": "abort", "message": "no room"}}})
        if body.get("stream"):
            return await self._stream(request)
        report: dict[str, Any] = {"usage": {"prompt_tokens": 40, "prompt_tokens_details": {"cached_tokens": 8}}}
        report |= {name: body[name] for name in ("model",) if name in body}
        return web.json_response(report | ({"metadata": {"prefillshare": self.hits}} if self.hits else {}))

    async def _decode(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.drops_calls:
            assert request.transport is not None
            request.transport.abort()
        if self.status != 200:
            await asyncio.sleep(self.refusal_s)
            return self._failure()
        rooms = body.get("bootstrap_room", []) if self.role == "engine" else body["bootstrap_room"]
        for room in rooms if isinstance(rooms, list) else [rooms]:
            await self.rooms[room].wait()
        await asyncio.sleep(self.first_byte_s)
        if not body.get("stream"):
            await asyncio.sleep(self.pause_s * len(self.pieces))
            answer = self.answer or {"model": body.get("model"), "text": " ".join(self.pieces)}
            return web.json_response(answer, headers=self._report_headers())
        return await self._stream(request)

    def _report_headers(self) -> dict[str, str]:
        if self.role != "engine":
            return {}
        meta = {"prompt_tokens": 40, "cached_tokens": 8, "prefillshare": [self.hits or {"own_hit_tokens": 8}]}
        return {REPORT_HEADER: json.dumps({"meta_info": meta})}

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", **self._report_headers()}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if self.error_event is not None:
            await response.write(b"data: " + json.dumps({"error": self.error_event}).encode() + b"\n\n")
            return response
        for number, piece in enumerate(self.pieces):
            if number == self.break_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            await self._pass_gate()
            await response.write(f"data: {piece}{self.terminator}".encode())
            await asyncio.sleep(self.pause_s)
        await self._pass_gate()
        await response.write(b"data: [DONE]\n\n")
        await asyncio.sleep(self.end_s)
        return response

    async def _pass_gate(self) -> None:
        if self.gate is not None:
            await self.gate.acquire()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A running router and what stands behind it."""

    url: str
    gateway: Gateway
    workers: dict[str, SmallWorker]
    http: aiohttp.ClientSession

    @property
    def parts(self) -> Parts:
        return self.gateway.parts

    def __getitem__(self, worker_id: str) -> SmallWorker:
        return self.workers[worker_id]

    async def chat(self, model: str = "math", text: str = "hello there", **fields: Any) -> aiohttp.ClientResponse:
        messages = [{"role": "user", "content": text}]
        return await self.http.post(
            f"{self.url}/v1/chat/completions", json={"model": model, "messages": messages, **fields}
        )

    async def state(self) -> dict[str, Any]:
        async with self.http.get(f"{self.url}/router/state") as reply:
            return await reply.json()

    async def is_up(self, *ids: str) -> None:
        """Wait until these workers are up."""
        await until(lambda: all((worker := self.parts.pool.get(i)) and worker.state == "up" for i in ids))


@contextlib.asynccontextmanager
async def closing_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that closes every answer in the end: one that is dropped half read may warn of its connection later."""
    replies: list[aiohttp.ClientResponse] = []

    async def keep(_session: object, _context: object, ended: aiohttp.TraceRequestEndParams) -> None:
        replies.append(ended.response)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(keep)
    async with aiohttp.ClientSession(trace_configs=[trace]) as http:
        yield http
        for reply in replies:
            reply.close()


P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in an event loop of its own; minutes are more than any of them needs."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(300):
                await test(*args, **kwargs)

        asyncio.run(limited())

    return run


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    """Wait until `condition()` holds.

    Raises: TimeoutError.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


FAST = {
    "health_interval_s": 0.2,
    # Workers that are told to fail say so at once; what is tested is not how a busy machine looks to a probe.
    "health_timeout_s": 10.0,
    "health_failures": 1,
    "drain_timeout_s": 3.0,
    # A call without a worker is refused at once, however young the router; `test_start_hold.py` has what waits.
    "start_hold_s": 0.0,
}


@contextlib.asynccontextmanager
async def deployment(
    *,
    prefill: int = 1,
    decode: Sequence[str] = ("math",),
    engines: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    idle_s: float = 60.0,
    **router: Any,
) -> AsyncIterator[Deployment]:
    """A router before `prefill` prefill workers p0, p1, ..., a decode worker per name: math-0, code-1, ..., and an
    engine per name: own-e0, own-e1, ..."""
    rooms = Rooms()
    workers = {f"p{number}": SmallWorker(f"p{number}", "prefill", rooms) for number in range(prefill)}
    for number, module in enumerate(decode):
        worker = SmallWorker(f"{module}-{number}", "decode", rooms, module=module)
        workers[worker.id] = worker
    for number, module in enumerate(engines):
        engine = SmallWorker(f"{module}-e{number}", "engine", rooms, module=module, is_adapter=True)
        workers[engine.id] = engine
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers.values():
            await worker.start()
            stack.push_async_callback(worker.stop)
        app = make_app(
            RouterSettings(
                base_model=BASE,
                router=Router(**(FAST | router)),
                workers=tuple(worker.spec for worker in workers.values()),
                **(settings or {}),
            )
        )
        runner = make_runner(app, idle_s=idle_s, shutdown_timeout_s=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        http = await stack.enter_async_context(closing_session())
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        running = Deployment(url=url, gateway=app[GATEWAY], workers=workers, http=http)
        await running.is_up(*workers)
        yield running
