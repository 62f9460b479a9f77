"""One job: what follows an answer is asked for, computed by the base, and pushed to the module that comes next.

Nothing of it is a call: it takes no place at a worker, no retry follows, and neither health checks nor breakers hear of
its failures. Whoever cancels it has both workers told.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Literal

import orjson

from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.eager.continuations import Continuations
from prefillshare.routing.eager.legs import make_prefill, make_push
from prefillshare.routing.eager.prediction import Predictor
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.leg import Leg, LegFailedError
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.continuation import Continuation
from prefillshare.wire.errors import error_text

log = logging.getLogger(__name__)

MAX_CALLS_AHEAD = 1
"""Calls that a prefill worker may have when a job is sent there: more, and one of them waits."""

Outcome = Literal["nothing", "dropped", "failed", "done", "pushed"]
FAILURES = (LegFailedError, ShortageError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A call whose answer has gone out whole."""

    session: str
    """Name of its session, the client's or the router's own."""
    demand: Demand
    """What it wanted."""
    rid: str
    """Its id at the decode worker."""
    prefill: Worker
    """Worker that computed its prompt."""
    decode: Worker
    """Worker that answered."""


class Job:
    """What is done after one answer."""

    def __init__(self, parts: Parts, continuations: Continuations, predictor: Predictor, ended: Ended) -> None:
        self._parts = parts
        self._continuations = continuations
        self._predictor = predictor
        self._ended = ended

    def foresee(self) -> Outcome | None:
        """Return how it would end if it ran now; None if there is something to do."""
        ended = self._ended
        if not self._is_present(ended.decode) or not self._continuations.can_ask(ended.decode):
            return "nothing"
        return None if self._has_time() else "dropped"

    async def run(self) -> Outcome:
        """Do it, as far as no call is held up by it.

        Raises: what stands in `FAILURES`.
        """
        ended = self._ended
        if (outcome := self.foresee()) is not None:
            return outcome
        continuation = await self._continuations.ask(ended.decode, ended.rid)
        if continuation is None:
            return "nothing"
        if not self._has_time():
            return "dropped"
        if not await self._send(make_prefill(continuation, ended.prefill)):
            return "dropped"
        self._parts.chooser.learn_ahead(ended.demand, ended.prefill, continuation.new_tokens)
        return "pushed" if await self._push(continuation) else "done"

    async def _push(self, continuation: Continuation) -> bool:
        """Push the continuation to the worker where the session's next call will be decoded; return whether it went."""
        ended = self._ended
        module = self._predictor.next_module(ended.session)
        replica = None if module is None else self._parts.chooser.expect_replica(ended.demand, module)
        if replica is None or not self._has_time():
            return False
        try:
            is_done = await self._send(*make_push(continuation, ended.prefill, replica))
        except (LegFailedError, ShortageError) as error:
            log.debug("what follows an answer of session %s was not pushed: %s", ended.session, error)
            return False
        if is_done:
            self._parts.chooser.learn_push(ended.demand, replica)
        return is_done

    async def _send(self, *legs: Leg) -> bool:
        """Send the legs at once, and wait until all are answered or one is given up; return whether none was.

        Effects: what is still open at the end is aborted, for the other worker of a pair would wait.
        Raises: LegFailedError, ShortageError.
        """
        tasks = {asyncio.create_task(self._send_one(leg)): leg for leg in legs}
        try:
            for answered in asyncio.as_completed(tasks):
                if not await answered:
                    return False
            return True
        finally:
            for task, leg in tasks.items():
                if task.cancel():
                    self._parts.client.abort(leg)
                elif not task.cancelled():
                    task.exception()  # of two that fail, the first is told

    async def _send_one(self, leg: Leg) -> bool:
        answer = await self._parts.client.send(leg, {}, is_stream=False)
        if answer.status != 200:
            # The other worker of a pair would wait for this one.
            raise LegFailedError(leg.worker, f"answered {answer.status}: {error_text(answer.content)}")
        return not _is_given_up(answer.content)

    def _is_present(self, worker: Worker) -> bool:
        return self._parts.pool.get(worker.id) is worker and worker.is_available

    def _has_time(self) -> bool:
        """Whether the prefill worker can do more than its calls, and the router has room for more connections."""
        worker, parts = self._ended.prefill, self._parts
        has_waiting = parts.admission.num_queued() > 0 or worker.load > MAX_CALLS_AHEAD
        return self._is_present(worker) and not has_waiting and not parts.descriptors.is_short


def _is_given_up(content: bytes) -> bool:
    """Whether the worker had no room or time for it, which it says as it says that a call was aborted."""
    try:
        return bool(orjson.loads(content)["meta_info"]["finish_reason"]["type"] == "abort")
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return False
