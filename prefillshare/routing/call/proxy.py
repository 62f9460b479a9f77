"""A call from the client to its answer: admission, attempts, retries."""

import asyncio
import time

from prefillshare.observe.observer import Observed, Outcome, outcome_of
from prefillshare.observe.sessions import Prompt
from prefillshare.routing.call.attempt import Attempt
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.caller import Caller
from prefillshare.routing.call.counters import Counters
from prefillshare.routing.call.metering import MeteredCaller
from prefillshare.routing.call.prefill_only import answer_by_prefill
from prefillshare.routing.call.relay import StreamBrokenError, relay
from prefillshare.routing.call.tries import Tries
from prefillshare.routing.call.underway import Underway
from prefillshare.routing.call.whole import answer_whole
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.eager.answers import EagerAnswers
from prefillshare.routing.eager.job import Ended
from prefillshare.routing.errors import QueueFullError, RoutingError
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.leg import LegFailedError


class Proxy:
    """Answers calls."""

    def __init__(self, parts: Parts, eager: EagerAnswers | None = None) -> None:
        self.counters = Counters()
        self.num_running = 0
        self._loop = asyncio.get_running_loop()
        self._parts = parts
        self._eager = eager

    async def answer(self, caller: Caller, call: Call) -> None:
        """Give `caller` the decode worker's answer to `call`; when this returns, all of it is on its way.

        Raises: RoutingError.
        """
        metered = None if call.account is None else MeteredCaller(caller, call.account, hides_usage=call.hides_usage)
        caller = metered or caller
        observed = self._observe(call)
        # In the turn after the next: what nobody waits for is done when both legs are on their way.
        self._loop.call_soon(self._loop.call_soon, self._tell_begin, call, observed)
        self.counters.calls += 1
        self.num_running += 1
        started = time.monotonic()
        outcome: Outcome = "aborted"
        reason: str | None = None
        try:
            with self._parts.tracing.span(
                caller.headers, module=call.module, endpoint=call.endpoint, session=call.session
            ) as span:
                loop = self._loop
                deadline = loop.time() + self._parts.settings.router.total_timeout_s
                status = await self._try_workers(
                    Underway(caller=caller, call=call, observed=observed, span=span, loop=loop, deadline=deadline)
                )
            self.counters.answered += 1
            outcome = outcome_of(status)
            reason = None if outcome == "ok" else f"answered {status}"
        except StreamBrokenError as error:
            self.counters.failed += 1
            outcome, reason = "error", str(error)
        except (asyncio.CancelledError, ConnectionResetError):
            self.counters.aborted += 1
            raise
        except RoutingError as error:
            outcome, reason = outcome_of(error.status), str(error)
            self._count_failure(error)
            raise
        finally:  # a client that leaves cancels this task, wherever it waits
            self.num_running -= 1
            observed.end(outcome, seconds=time.monotonic() - started, reason=reason)
            if metered is not None:
                metered.close()

    def _observe(self, call: Call) -> Observed:
        num_prompts = 1 if call.num_prompts is None else call.num_prompts
        prompt = Prompt(data=call.prompts[0] if call.prompts else b"")
        return self._parts.observer.begin(
            call.module,
            session=call.session,
            prompt=prompt,
            num_prompts=num_prompts,
            ledger=call.account,
            finds_session=False,
        )

    def _count_failure(self, error: RoutingError) -> None:
        if isinstance(error, QueueFullError):
            self.counters.refused += 1
        else:
            self.counters.failed += 1

    async def _try_workers(self, underway: Underway) -> int:
        """Pass on the answer of the first pair of workers that has one; return its status.

        Nothing is tried again once a byte of an answer was passed on: `relay` lets no LegFailedError out.
        """
        tries = Tries(max_retries=self._parts.settings.router.max_retries)
        while True:
            pair = await self._reserve(underway, tries)
            try:
                return await self._attempt(underway, pair)
            except LegFailedError as error:
                tries.record_failure(error, pair)
                self.counters.retries += 1

    async def _reserve(self, underway: Underway, tries: Tries) -> Pair:
        asked = time.monotonic()
        pair = await self._parts.admission.acquire(underway.call, tries.avoid)
        if tries.num_failed == 0:
            underway.observed.note_wait(time.monotonic() - asked)
        chosen = {f"{worker.spec.role}_worker": worker.id for worker in pair.workers}
        underway.span.note(tries=tries.num_failed + 1, **chosen)
        self.counters.prompt_bytes += underway.call.prompt_bytes
        self.counters.matched_bytes += pair.matched_bytes
        return pair

    async def _attempt(self, underway: Underway, pair: Pair) -> int:
        if pair.is_one_engine:
            return await answer_whole(self._parts, underway, pair)  # what it answered is in its cache: no job follows
        if underway.call.is_prefill_only:
            return await answer_by_prefill(self._parts, underway, pair)
        async with Attempt(self._parts, underway, pair) as attempt:
            answer = await attempt.open()
            # The attempt is left when the last byte is passed on: until then the decode worker is in use.
            await relay(underway, pair.prefill, attempt.decode, answer, self._parts.settings.router)
        if answer.status == 200:
            self._tell_end(underway, attempt)
        return answer.status

    def _tell_begin(self, call: Call, observed: Observed) -> None:
        session = observed.session
        # A module that computes its prompts itself computes nothing that a job would, and nobody can push to it.
        is_own = call.is_prefill_only or call.module in self._parts.pool.computing_alone()
        if self._eager is not None and session is not None and not is_own:
            self._eager.begin_call(session, call.module)

    def _tell_end(self, underway: Underway, attempt: Attempt) -> None:
        """The answer is out: what follows it may be computed. Of several nobody knows which one goes on."""
        session, call = underway.observed.session, underway.call
        if self._eager is not None and session is not None and call.has_one_answer:
            self._eager.end_call(
                Ended(
                    session=session,
                    demand=call,
                    rid=attempt.decode_rid,
                    prefill=attempt.prefill,
                    decode=attempt.decode,
                )
            )
