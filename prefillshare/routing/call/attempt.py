"""One attempt at a call: both legs at once, on one pair of workers."""

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType

from prefillshare.observe.observer import Observed
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.legs import make_legs
from prefillshare.routing.call.prefill_leg import PrefillLeg
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.choice.choice import Chooser, Pair
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.workers.client import Answer, LegFailedError, WorkerClient
from prefillshare.routing.workers.health import Health
from prefillshare.routing.workers.worker import Worker

_REFUSAL_GRACE_S = 1.0
"""How long the decode leg may take to refuse a call itself, once the prefill leg has or its hand-off failed."""


class Attempt:
    """Context of one attempt; leaving it gives the decode worker back and ends both legs if anything went wrong.

    The prefill leg ends on its own after a good answer: the prefill worker may report later than the first token.
    """

    def __init__(
        self,
        call: Call,
        pair: Pair,
        *,
        base: str,
        client: WorkerClient,
        chooser: Chooser,
        admission: Admission,
        health: Health,
        observed: Observed,
    ) -> None:
        self.call = call
        self.pair = pair
        self._prefill_leg, self._decode_leg = make_legs(call, pair.prefill, self.decode, base)
        self._prefill_run = PrefillLeg(
            call,
            pair,
            self._prefill_leg,
            client=client,
            chooser=chooser,
            admission=admission,
            health=health,
            observed=observed,
        )
        self._client = client
        self._admission = admission
        self._health = health
        self._answer: Answer | None = None
        self._started = time.monotonic()

    @property
    def decode(self) -> Worker:
        """Worker of the decode leg."""
        assert self.pair.decode is not None
        return self.pair.decode

    async def __aenter__(self) -> "Attempt":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = error if isinstance(error, LegFailedError) else error and error.__cause__
        # A failed prefill leg has reported itself, unless it just did not end.
        if isinstance(failure, LegFailedError) and (failure.worker is self.decode or self.is_prefilling):
            self._health.failed(failure)
        elif self._answer is not None and error is None:
            self._health.succeeded(self.decode)
        else:
            self.decode.breaker.undecided()
        if error is not None or self._answer is None or self._answer.status != 200:
            self._abort()
        self._admission.release(self.decode, time.monotonic() - self._started)

    async def open(self, headers: Mapping[str, str]) -> Answer:
        """Send both legs and return the answer, or its beginning.

        Raises: LegFailedError, ShortageError.
        """
        self._prefill = asyncio.create_task(self._run_prefill(headers))
        self._decode = asyncio.create_task(self._client.send(self._decode_leg, headers, is_stream=self.call.is_stream))
        await asyncio.wait((self._prefill, self._decode), return_when=asyncio.FIRST_COMPLETED)
        self._answer = await self._first_answer()
        return self._answer

    @property
    def is_prefilling(self) -> bool:
        """Whether the prefill worker has not reported yet."""
        return not self._prefill.done()

    async def _first_answer(self) -> Answer:
        if self._decode.done():
            return await self._decode
        report = self._prefill.result()
        if isinstance(report, ShortageError) or (isinstance(report, LegFailedError) and report.counts):
            raise report
        if isinstance(report, LegFailedError) or report.is_refusal:
            # A refusal by the decode worker makes the hand-off fail, and says why.
            await asyncio.wait((self._decode,), timeout=_REFUSAL_GRACE_S)
            if not self._decode.done():
                return _answer_or_raise(report)
        return await self._decode

    async def _run_prefill(self, headers: Mapping[str, str]) -> Answer | LegFailedError | ShortageError:
        try:
            return await self._prefill_run.run(headers)
        except (LegFailedError, ShortageError) as error:
            return error

    def _abort(self) -> None:
        if self._answer is not None and self._answer.rest is not None:
            self._answer.rest.close()
        for task, leg in ((self._prefill, self._prefill_leg), (self._decode, self._decode_leg)):
            is_open = not task.done() or (task is self._decode and self._answer is not None and self._answer.rest)
            task.cancel()
            if is_open:
                self._client.abort(leg)


def _answer_or_raise(report: Answer | LegFailedError) -> Answer:
    if isinstance(report, LegFailedError):
        raise report
    return report
