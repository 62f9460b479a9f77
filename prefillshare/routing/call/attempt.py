"""One attempt at a call: both legs at once, on one pair of workers."""

import asyncio
import time
from types import TracebackType

from prefillshare.routing.call.legs import add_scores, make_legs, make_scoring_leg
from prefillshare.routing.call.prefill_leg import run_prefill_leg
from prefillshare.routing.call.scoring import Scoring
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
        scored = underway.call.scoring is not None
        self._scoring = Scoring(make_scoring_leg(underway.call, pair.prefill)) if scored else None
        self._answer: Answer | None = None
        self._is_prefill_begun = False
        self._is_decode_over = False
        self._is_waiting = False
        self._refusal: Answer | BaseException | None = None
        """What the prefill leg said, if that leaves the decode leg nothing to answer."""
        self._is_decoding = False
        self._is_over = False
        self._started = time.monotonic()

    async def __aenter__(self) -> "Attempt":
        # Both legs set out at once. The decode worker fetches the KV when the prefill worker has it, by the room
        # that both are told; whichever comes first waits for the other.
        self._prefill = self._underway.loop.create_task(self._run_prefill())
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
        settings, now = self._parts.settings.router, self._underway.loop.time()
        limit_s = settings.first_byte_timeout_s if self._underway.call.is_stream else settings.total_timeout_s
        ends_at = min(now + limit_s, self._underway.deadline)
        try:
            async with asyncio.timeout_at(ends_at) as limit:
                # The decode leg runs in this task; a prefill leg that says why there will be no answer ends it early.
                self._is_waiting = True
                self._prefill.add_done_callback(lambda _: self._hear_prefill(limit, ends_at))
                self._answer = await self._run_decode()
        except TimeoutError:
            if self._refusal is None:
                give_up(note_silence(self._pair.prefill if self._is_prefilling else self.decode, limit_s))
            self._answer = _answer_or_raise(self._refusal)
        finally:
            self._is_waiting = False
        return self._answer

    @property
    def decode_rid(self) -> str:
        """Id of the call at the decode worker; of a batch, that of its first prompt."""
        return self._decode_leg.rids[0]

    @property
    def _is_prefilling(self) -> bool:
        """Whether the prefill worker has not reported yet."""
        return not self._prefill.done()

    async def _run_decode(self) -> Answer:
        call, leg = self._underway.call, self._decode_leg
        if self._scoring is not None:
            leg = add_scores(leg, await self._scoring.scores)
        try:
            answer = await self._parts.client.send(leg, self._underway.span.headers, is_stream=call.is_stream)
        except (LegFailedError, ShortageError):
            self._is_decode_over = True
            raise
        # A stream is in the worker's hands until `relay` has passed on its last piece.
        self._is_decode_over = answer.rest is None
        return answer

    def _hear_prefill(self, limit: asyncio.Timeout, ends_at: float) -> None:
        """Wait no longer for the decode leg, or not much longer, once the prefill leg says that it is in vain."""
        if not self._is_waiting or limit.expired() or self._prefill.cancelled():
            return
        report = self._prefill.exception() or self._prefill.result()
        if isinstance(report, Answer) and not report.is_refusal:
            return
        self._refusal = report
        # A refusal by the decode worker makes the hand-off fail, and says why.
        is_asked = self._scoring is None or self._scoring.scores.done()
        may_be_told = is_asked and (
            isinstance(report, Answer) or (isinstance(report, LegFailedError) and not report.counts)
        )
        grace_s = _REFUSAL_GRACE_S if may_be_told else 0.0
        limit.reschedule(min(self._underway.loop.time() + grace_s, ends_at))

    async def _run_prefill(self) -> PrefillResult:
        # An error is returned, not raised: after a good answer nobody waits for this task any more.
        self._is_prefill_begun = True
        try:
            report = await run_prefill_leg(self._parts, self._underway, self._pair, self._prefill_leg, self._scoring)
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
        # Whoever waits for a leg and is cancelled has cancelled the leg, too: the worker still computes it.
        is_prefilling = self._is_prefilling or self._prefill.cancelled()
        self._prefill.cancel()
        if not self._is_prefill_begun:
            # The decode leg failed without waiting for anything: a task that is cancelled before it runs gives no
            # worker back.
            self.prefill.breaker.record_nothing()
            self._parts.admission.release(self.prefill)
        elif is_prefilling:
            self._parts.client.abort(self._prefill_leg)
            if self._scoring is not None:
                self._parts.client.abort(self._scoring.leg)
        if not self._is_decode_over:
            self._parts.client.abort(self._decode_leg)


def _answer_or_raise(report: Answer | BaseException) -> Answer:
    if isinstance(report, Answer):
        return report
    raise report
