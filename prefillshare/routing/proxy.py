"""A call from the client to its answer: admission, attempts, retries."""

import asyncio
import time

from aiohttp import web

from prefillshare.config.router import Router
from prefillshare.observe.observer import Observed, Observer, Outcome
from prefillshare.observe.sessions import Prompt
from prefillshare.routing.admission import Admission
from prefillshare.routing.attempt import Attempt
from prefillshare.routing.call import Call
from prefillshare.routing.choice import Chooser, Pair
from prefillshare.routing.client import Answer, LegFailedError, WorkerClient
from prefillshare.routing.counters import Counters
from prefillshare.routing.errors import CallTimeoutError, QueueFullError, RoutingError, WorkerFailedError
from prefillshare.routing.health import Health
from prefillshare.routing.relay import StreamBrokenError, relay

_PASSED_HEADERS = ("X-Request-Id", "traceparent", "tracestate")


class Proxy:
    """Answers calls."""

    def __init__(
        self,
        settings: Router,
        *,
        base: str,
        client: WorkerClient,
        chooser: Chooser,
        admission: Admission,
        health: Health,
        observer: Observer,
    ) -> None:
        self.counters = Counters()
        self.num_running = 0
        self._settings = settings
        self._base = base
        self._client = client
        self._chooser = chooser
        self._admission = admission
        self._health = health
        self._observer = observer

    async def answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Return the decode worker's answer to `call`, passed on already if it is a stream.

        Raises: RoutingError.
        """
        self.counters.calls += 1
        self.num_running += 1
        started = time.monotonic()
        observed = self._observer.begin(
            call.module,
            session=call.session,
            prompt=Prompt(data=call.prompts[0] if call.prompts else b""),
            num_prompts=1 if call.num_prompts is None else call.num_prompts,
        )
        outcome: Outcome = "error"
        reason: str | None = None
        try:
            response = await self._tried(request, call, observed)
            self.counters.answered += 1
            is_good = response.status < 400
            outcome, reason = "ok" if is_good else "error", None if is_good else f"answered {response.status}"
            return response
        except StreamBrokenError as error:
            self.counters.failed += 1
            reason = str(error)
            return error.response
        except (asyncio.CancelledError, ConnectionResetError):
            self.counters.aborted += 1
            outcome = "aborted"
            raise
        except QueueFullError as error:
            self.counters.refused += 1
            reason = str(error)
            self._observer.events.tell("refusal", call.module, reason)
            raise
        except RoutingError as error:
            self.counters.failed += 1
            reason = str(error)
            raise
        finally:
            self.num_running -= 1
            observed.ended(outcome, seconds=time.monotonic() - started, reason=reason)

    async def _tried(self, request: web.Request, call: Call, observed: Observed) -> web.StreamResponse:
        deadline = asyncio.get_running_loop().time() + self._settings.total_timeout_s
        num_tries, is_suspect = 0, False
        avoid: set[str] = set()
        asked = time.monotonic()
        while True:
            pair = await self._admission.acquire(call, avoid)
            if num_tries == 0:
                observed.waited(time.monotonic() - asked)
            self.counters.prompt_bytes += call.prompt_bytes
            self.counters.matched_bytes += pair.matched_bytes
            try:
                return await self._attempt(request, call, pair, deadline, observed)
            except LegFailedError as error:
                num_tries += 1
                # A call during which two workers ended may be what ended them: a third must not follow.
                if num_tries > self._settings.max_retries or (is_suspect and error.is_broken_off):
                    raise WorkerFailedError(f"{error}; {_tries(num_tries)}") from None
                is_suspect |= error.is_broken_off
                self.counters.retries += 1
                # Of a failed hand-off nobody knows whose fault it was.
                avoid |= {error.worker.id} if error.counts else {pair.prefill.id, pair.decode.id}

    async def _attempt(
        self, request: web.Request, call: Call, pair: Pair, deadline: float, observed: Observed
    ) -> web.StreamResponse:
        attempt = Attempt(
            call,
            pair,
            base=self._base,
            client=self._client,
            chooser=self._chooser,
            admission=self._admission,
            health=self._health,
            observed=observed,
        )
        async with attempt:
            answer = await self._open(request, attempt, deadline)
            return await relay(request, attempt, answer, self._settings, deadline)

    async def _open(self, request: web.Request, attempt: Attempt, deadline: float) -> Answer:
        limit_s = self._settings.first_byte_timeout_s if attempt.call.is_stream else self._settings.total_timeout_s
        headers = {name: request.headers[name] for name in _PASSED_HEADERS if name in request.headers}
        try:
            async with asyncio.timeout_at(min(asyncio.get_running_loop().time() + limit_s, deadline)):
                return await attempt.open(headers)
        except TimeoutError:
            slow = attempt.pair.prefill if attempt.is_prefilling else attempt.pair.decode
            cause = LegFailedError(slow, f"sent nothing within {limit_s:g} s")
            raise CallTimeoutError(f"{cause}: the call was given up") from cause


def _tries(count: int) -> str:
    return "there was no further try" if count == 1 else f"{count} tries failed"
