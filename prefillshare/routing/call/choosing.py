"""Calls whose module a classifier chooses: a prefill worker is asked first what it makes of the prompts.

call --> choice: one leg to a prefill worker, x_1 .. x_n --> hidden state of x_n --> classifier --> module
then the call, as if it had named that module: its prefill leg finds the prompt where the choice has left it
"""

import asyncio
import time
import uuid
from dataclasses import replace

from prefillshare.observe.observer import Observer
from prefillshare.observe.sessions import Prompt
from prefillshare.routing.call.call import Call, Choice
from prefillshare.routing.call.caller import Caller
from prefillshare.routing.call.legs import make_choice_leg
from prefillshare.routing.call.prefill_only import ask_prefill
from prefillshare.routing.call.tries import Tries
from prefillshare.routing.call.underway import Underway
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.parts import Parts
from prefillshare.routing.tracing import CallSpan
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import LegFailedError


class Choices:
    """Asks prefill workers about prompts."""

    def __init__(self, parts: Parts) -> None:
        self.num_running = 0
        """Calls whose module is being chosen."""
        self._parts = parts

    async def choose(self, caller: Caller, call: Call) -> Choice | None:
        """Return what the prefill module makes of an undecided call; None when a worker refused it, which is answered.

        Raises: RoutingError.
        """
        parts, started, choice_id = self._parts, time.monotonic(), uuid.uuid4().hex
        self.num_running += 1
        try:
            with parts.tracing.span(
                caller.headers, module=parts.settings.base_model, endpoint=call.endpoint, session=call.session
            ) as span:
                answer = await self._try_workers(self._begin(caller, call, span), choice_id)
        finally:
            self.num_running -= 1
        if answer.status != 200:
            caller.answer(answer.body, status=answer.status, headers={"Content-Type": answer.content_type})
            return None
        parts.observer.choices.note_time(time.monotonic() - started)
        return Choice(id=choice_id, states=answer.told)

    def _begin(self, caller: Caller, call: Call, span: CallSpan) -> Underway:
        base, loop = self._parts.settings.base_model, asyncio.get_running_loop()
        # It is no call of the module's, and the call that follows is counted with the prompt that it found.
        observed = Observer().begin(base, session=None, prompt=Prompt(data=b""), finds_session=False)
        deadline = loop.time() + self._parts.settings.router.total_timeout_s
        question = _as_question(call, base)
        return Underway(caller=caller, call=question, observed=observed, span=span, loop=loop, deadline=deadline)

    async def _try_workers(self, underway: Underway, choice_id: str) -> Answer:
        """Return the answer of the first prefill worker that has one.

        Raises: RoutingError.
        """
        parts = self._parts
        tries = Tries(max_retries=parts.settings.router.max_retries)
        while True:
            pair = await parts.admission.acquire(underway.call, tries.avoid)
            try:
                return await self._ask(underway, pair, choice_id)
            except LegFailedError as error:
                tries.record_failure(error, pair)

    async def _ask(self, underway: Underway, pair: Pair, choice_id: str) -> Answer:
        leg = make_choice_leg(underway.call, pair.prefill, self._parts.settings.base_model, choice_id)
        return await ask_prefill(self._parts, underway, pair, leg)


def _as_question(call: Call, base: str) -> Call:
    """Return what is wanted of a prefill worker: one look at each prompt."""
    return replace(
        call, module=base, is_prefill_only=True, is_stream=False, num_samples=1, scoring=None, answer_fields={}
    )
