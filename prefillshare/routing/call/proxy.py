"""A call from the client to its answer: admission, attempts, retries."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from prefillshare.config.router import Router
from prefillshare.observe.observer import Observed, Observer, Outcome
from prefillshare.observe.sessions import Prompt
from prefillshare.routing.call.attempt import Attempt
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.counters import Counters
from prefillshare.routing.call.legs import make_prefill_only_leg
from prefillshare.routing.call.prefill_leg import PrefillLeg
from prefillshare.routing.call.relay import StreamBrokenError, relay
from prefillshare.routing.call.tracing import CallSpan, Tracing
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.choice.choice import Chooser, Pair
from prefillshare.routing.errors import CallTimeoutError, QueueFullError, RoutingError, WorkerFailedError
from prefillshare.routing.workers.client import Answer, LegFailedError, WorkerClient
from prefillshare.routing.workers.health import Health
from prefillshare.routing.workers.worker import Worker


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
        tracing: Tracing,
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
        self._tracing = tracing

    async def answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Return the decode worker's answer to `call`, passed on already if it is a stream.

        Raises: RoutingError.
        """
        num_prompts = 1 if call.num_prompts is None else call.num_prompts
        prompt = Prompt(data=call.prompts[0] if call.prompts else b"")
        observed = self._observer.begin(call.module, session=call.session, prompt=prompt, num_prompts=num_prompts)
        self.counters.calls += 1
        self.num_running += 1
        started = time.monotonic()
        outcome: Outcome = "aborted"
        reason: str | None = None
        try:
            with self._tracing.call(request.headers, call) as span:
                response = await self._tried(_Underway(request, call, observed, span))
            self.counters.answered += 1
            outcome, reason = ("ok", None) if response.status < 400 else ("error", f"answered {response.status}")
            return response
        except StreamBrokenError as error:
            self.counters.failed += 1
            outcome, reason = "error", str(error)
            return error.response
        except (asyncio.CancelledError, ConnectionResetError):
            self.counters.aborted += 1
            raise
        except RoutingError as error:
            outcome, reason = "error", str(error)
            self._count_failure(call, error)
            raise
        finally:
            self.num_running -= 1
            observed.ended(outcome, seconds=time.monotonic() - started, reason=reason)

    def _count_failure(self, call: Call, error: RoutingError) -> None:
        if isinstance(error, QueueFullError):
            self.counters.refused += 1
            self._observer.events.tell("refusal", call.module, str(error))
        else:
            self.counters.failed += 1

    async def _tried(self, underway: "_Underway") -> web.StreamResponse:
        call = underway.call
        asked, deadline = time.monotonic(), asyncio.get_running_loop().time() + self._settings.total_timeout_s
        num_tries, is_suspect = 0, False
        avoid: set[str] = set()
        while True:
            pair = await self._admission.acquire(call, avoid)
            if num_tries == 0:
                underway.observed.waited(time.monotonic() - asked)
            underway.span.note(tries=num_tries + 1, **{f"{one.spec.role}_worker": one.id for one in pair.workers})
            self.counters.prompt_bytes += call.prompt_bytes
            self.counters.matched_bytes += pair.matched_bytes
            try:
                return await self._attempt(underway, pair, deadline)
            except LegFailedError as error:
                num_tries += 1
                # A call during which two workers ended may be what ended them: a third must not follow.
                if num_tries > self._settings.max_retries or (is_suspect and error.is_broken_off):
                    raise WorkerFailedError(f"{error}; {_tries(num_tries)}") from None
                is_suspect |= error.is_broken_off
                self.counters.retries += 1
                # Of a failed hand-off nobody knows whose fault it was.
                avoid |= {error.worker.id} if error.counts else {worker.id for worker in pair.workers}

    async def _attempt(self, underway: "_Underway", pair: Pair, deadline: float) -> web.StreamResponse:
        if underway.call.is_prefill_only:
            return await self._prefilled(underway, pair, deadline)
        attempt = Attempt(
            underway.call,
            pair,
            base=self._base,
            client=self._client,
            chooser=self._chooser,
            admission=self._admission,
            health=self._health,
            observed=underway.observed,
        )
        async with attempt:
            answer = await self._open(attempt, underway.span.headers, deadline)
            return await relay(underway.request, attempt, answer, self._settings, deadline)

    async def _open(self, attempt: Attempt, headers: Mapping[str, str], deadline: float) -> Answer:
        limit_s = self._settings.first_byte_timeout_s if attempt.call.is_stream else self._settings.total_timeout_s
        try:
            async with asyncio.timeout_at(min(asyncio.get_running_loop().time() + limit_s, deadline)):
                return await attempt.open(headers)
        except TimeoutError:
            cause = _silence(attempt.pair.prefill if attempt.is_prefilling else attempt.decode, limit_s)
            raise _gave_up(cause) from cause

    async def _prefilled(self, underway: "_Underway", pair: Pair, deadline: float) -> web.Response:
        """Return the prefill worker's own answer to a call that asks for no token."""
        run = PrefillLeg(
            underway.call,
            pair,
            make_prefill_only_leg(underway.call, pair.prefill),
            client=self._client,
            chooser=self._chooser,
            admission=self._admission,
            health=self._health,
            observed=underway.observed,
        )
        try:
            async with asyncio.timeout_at(deadline):
                answer = await run.run(underway.span.headers)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._client.abort(run.leg)
            if isinstance(error, asyncio.CancelledError):
                raise
            cause = _silence(pair.prefill, self._settings.total_timeout_s)
            self._health.failed(cause)
            raise _gave_up(cause) from cause
        headers = {"Content-Type": answer.content_type, "X-Prefill-Worker": pair.prefill.id}
        return web.Response(body=answer.body, status=answer.status, headers=headers)


def _silence(worker: Worker, limit_s: float) -> LegFailedError:
    return LegFailedError(worker, f"sent nothing within {limit_s:g} s")


def _gave_up(cause: LegFailedError) -> CallTimeoutError:
    return CallTimeoutError(f"{cause}: the call was given up")


@dataclass(frozen=True, slots=True)
class _Underway:
    """One call on its way through its attempts."""

    request: web.Request
    call: Call
    observed: Observed
    span: CallSpan


def _tries(count: int) -> str:
    return "there was no further try" if count == 1 else f"{count} tries failed"
