"""One attempt at a call: both legs at once, on one pair of workers."""

import asyncio
import time
from types import TracebackType

from prefillshare.routing.call.legs import make_legs
from prefillshare.routing.call.prefill_leg import run_prefill_leg
from prefillshare.routing.call.underway import Underway, give_up, note_silence
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import LegFailedError
from prefillshare.routing.workers.worker import Worker

_REFUSAL_GRACE_S = 1.0
"""How long the decode leg may take to refuse a call itself, once the prefill leg has or its hand-off failed."""

PrefillResult = Answer | LegFailedError | ShortageError


class Attempt:
    """Context of one attempt; leaving it gives the decode worker back and ends both legs if anything went wrong.

    The prefill leg ends on its own after a good answer: the prefill worker may report later than the first token.
    So each leg gives its own worker back: the prefill leg when it ends, this context for the decode leg.
    """

    def __init__(self, parts: Parts, underway: Underway, pair: Pair) -> None:
        assert pair.decode is not None
        self.decode: Worker = pair.decode
        self.prefill: Worker = pair.prefill
        self._parts = parts
        self._underway = underway
        self._pair = pair
        self._prefill_leg, self._decode_leg = make_legs(
            underway.call, pair.prefill, pair.decode, parts.settings.base_model
        )
        self._answer: Answer | None = None
        self._is_decoding = False
        self._is_over = False
        self._started = time.monotonic()

    async def __aenter__(self) -> "Attempt":
        # Both legs set out at once. The decode worker fetches the KV when the prefill worker has it, by the room
        # that both are told; whichever comes first waits for the other.
        self._prefill = asyncio.create_task(self._run_prefill())
        self._decode = asyncio.create_task(
            self._parts.client.send(
                self._decode_leg, self._underway.span.headers, is_stream=self._underway.call.is_stream
            )
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._record(error)
        if error is not None or self._answer is None or self._answer.status != 200:
            self._end_legs()
        self._is_over = True
        self.decode.num_decoding -= self._is_decoding
        self._parts.admission.release(self.decode, time.monotonic() - self._started)

    async def open(self) -> Answer:
        """Return the answer, or its beginning.

        Raises: LegFailedError, ShortageError; CallTimeoutError when nothing has come in time.
        """
        settings = self._parts.settings.router
        limit_s = settings.first_byte_timeout_s if self._underway.call.is_stream else settings.total_timeout_s
        try:
            async with asyncio.timeout_at(min(asyncio.get_running_loop().time() + limit_s, self._underway.deadline)):
                await asyncio.wait((self._prefill, self._decode), return_when=asyncio.FIRST_COMPLETED)
                self._answer = await self._await_answer()
        except TimeoutError:
            give_up(note_silence(self._pair.prefill if self._is_prefilling else self.decode, limit_s))
        return self._answer

    @property
    def decode_rid(self) -> str:
        """Id of the call at the decode worker; of a batch, that of its first prompt."""
        return self._decode_leg.rids[0]

    @property
    def _is_prefilling(self) -> bool:
        """Whether the prefill worker has not reported yet."""
        return not self._prefill.done()

    async def _await_answer(self) -> Answer:
        """Return the decode leg's answer, or the prefill leg's where that says why there will be none."""
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

    async def _run_prefill(self) -> PrefillResult:
        # An error is returned, not raised: after a good answer nobody waits for this task any more.
        try:
            report = await run_prefill_leg(self._parts, self._underway, self._pair, self._prefill_leg)
            self._begin_decoding(report)
            return report
        except (LegFailedError, ShortageError) as error:
            return error

    def _begin_decoding(self, report: Answer) -> None:
        # The report may come after the answer.
        if report.status == 200 and not self._is_over:
            self._is_decoding = True
            self.decode.num_decoding += 1

    def _record(self, error: BaseException | None) -> None:
        """Tell the health checks what the attempt says about the decode worker, if anything."""
        failure = error if isinstance(error, LegFailedError) else error and error.__cause__
        # A failed prefill leg has reported itself, unless it just did not end.
        if isinstance(failure, LegFailedError) and (failure.worker is self.decode or self._is_prefilling):
            self._parts.health.record_failure(failure)
        elif self._answer is not None and error is None:
            self._parts.health.record_success(self.decode)
        else:
            self.decode.breaker.record_nothing()

    def _end_legs(self) -> None:
        """Close what is open, and tell the workers, which would go on computing for nobody."""
        if self._answer is not None and self._answer.rest is not None:
            self._answer.rest.close()
        for task, leg in ((self._prefill, self._prefill_leg), (self._decode, self._decode_leg)):
            is_streaming = task is self._decode and self._answer is not None and self._answer.rest is not None
            # Whoever waits for a leg and is cancelled has cancelled the leg, too: the worker still computes it.
            is_open = not task.done() or task.cancelled() or is_streaming
            task.cancel()
            if is_open:
                self._parts.client.abort(leg)


def _answer_or_raise(report: Answer | LegFailedError) -> Answer:
    if isinstance(report, LegFailedError):
        raise report
    return report
