"""One attempt at a call: both legs at once, on one pair of workers."""

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType

from prefillshare.observe.observer import Observed
from prefillshare.routing.admission import Admission
from prefillshare.routing.call import Call
from prefillshare.routing.choice import Chooser, Pair
from prefillshare.routing.client import Answer, LegFailedError, WorkerClient
from prefillshare.routing.health import Health
from prefillshare.routing.legs import make_legs
from prefillshare.routing.prefill_report import read_report

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
        self._prefill_leg, self._decode_leg = make_legs(call, pair.prefill, pair.decode, base)
        self._client = client
        self._chooser = chooser
        self._admission = admission
        self._health = health
        self._observed = observed
        self._answer: Answer | None = None
        self._started = time.monotonic()

    async def __aenter__(self) -> "Attempt":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = error if isinstance(error, LegFailedError) else error and error.__cause__
        # A failed prefill leg has reported itself, unless it just did not end.
        if isinstance(failure, LegFailedError) and (failure.worker is self.pair.decode or self.is_prefilling):
            self._health.failed(failure)
        elif self._answer is not None and error is None:
            self._health.succeeded(self.pair.decode)
        else:
            self.pair.decode.breaker.undecided()
        if error is not None or self._answer is None or self._answer.status != 200:
            self._abort()
        self._admission.release(self.pair.decode, time.monotonic() - self._started)

    async def open(self, headers: Mapping[str, str]) -> Answer:
        """Send both legs and return the answer, or its beginning.

        Raises: LegFailedError.
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
        if isinstance(report, LegFailedError) and report.counts:
            raise report
        if isinstance(report, LegFailedError) or report.is_refusal:
            # A refusal by the decode worker makes the hand-off fail, and says why.
            await asyncio.wait((self._decode,), timeout=_REFUSAL_GRACE_S)
            if not self._decode.done():
                return _answer_or_raise(report)
        return await self._decode

    async def _run_prefill(self, headers: Mapping[str, str]) -> Answer | LegFailedError:
        worker, expected = self.pair.prefill, self.pair.expected_tokens
        started = worker.speed.started(expected)
        computed = None
        try:
            answer = await self._client.send(self._prefill_leg, headers, is_stream=False)
            self._health.succeeded(worker)
            if answer.status == 200:
                report = read_report(answer.content)
                computed = report.computed_tokens
                if computed is None:  # the index's estimate is the best guess
                    computed = round(expected)
                self._chooser.learn(self.call, self.pair, report.prompt_tokens or None)
                self._observed.prefilled(
                    tokens=report.prompt_tokens, own=report.own_hit_tokens, cross=report.cross_hit_tokens
                )
            return answer
        except LegFailedError as error:
            self._health.failed(error)
            return error
        except asyncio.CancelledError:
            worker.breaker.undecided()
            raise
        finally:
            worker.speed.finished(expected, computed, started)
            self._admission.release(worker)

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
