"""One attempt at a call that one engine answers alone: its module computes prompts itself, so nothing is handed over.

The engine tells in a header beside its answer what the prefill took, also of a stream, whose first piece follows it.
"""

import asyncio
import time
from types import TracebackType

from prefillshare.routing.call.legs import make_whole_leg
from prefillshare.routing.call.prefill_report import read_report
from prefillshare.routing.call.relay import relay
from prefillshare.routing.call.underway import Underway, give_up, note_silence
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import LegFailedError


async def answer_whole(parts: Parts, underway: Underway, pair: Pair) -> int:
    """Give the caller the engine's answer; return its status.

    Raises: LegFailedError, ShortageError, StreamBrokenError, CallTimeoutError.
    """
    async with WholeAttempt(parts, underway, pair) as attempt:
        answer = await attempt.open()
        # The attempt is left when the last byte is passed on: until then the engine is in use.
        await relay(underway, pair.prefill, pair.prefill, answer, parts.settings.router)
    return answer.status


class WholeAttempt:
    """Context of one attempt; leaving it gives the engine back and ends the call there if anything went wrong."""

    def __init__(self, parts: Parts, underway: Underway, pair: Pair) -> None:
        self._parts = parts
        self._underway = underway
        self._pair = pair
        self._engine = pair.prefill
        self._leg = make_whole_leg(underway.call, pair.prefill)
        self._answer: Answer | None = None
        self._has_failed = False
        self._started = time.monotonic()

    async def __aenter__(self) -> "WholeAttempt":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._record(error)
        rest = None if self._answer is None else self._answer.rest
        if rest is not None and error is not None:
            rest.close()
        # What the engine has answered whole, or failed at itself, it does not compute any more.
        if error is not None and not self._has_failed and (self._answer is None or rest is not None):
            self._parts.client.abort(self._leg)
        self._parts.admission.release(self._engine, time.monotonic() - self._started)

    async def open(self) -> Answer:
        """Return the answer, or its beginning.

        Raises: LegFailedError, ShortageError; CallTimeoutError when nothing has come in time.
        """
        settings, call = self._parts.settings.router, self._underway.call
        limit_s = settings.first_byte_timeout_s if call.is_stream else settings.total_timeout_s
        ends_at = min(self._underway.loop.time() + limit_s, self._underway.deadline)
        headers = self._underway.span.headers
        try:
            async with asyncio.timeout_at(ends_at):
                self._answer = await self._parts.client.send(self._leg, headers, is_stream=call.is_stream)
        except (LegFailedError, ShortageError):
            self._has_failed = True
            raise
        except TimeoutError:
            give_up(note_silence(self._engine, limit_s))
        if self._answer.status == 200:
            self._learn(self._answer)
        return self._answer

    def _learn(self, answer: Answer) -> None:
        """Take in what the engine tells of the prompt, which it holds from now on."""
        call, pair = self._underway.call, self._pair
        # Of a stream nothing but the header: its first piece is the client's.
        told = answer.report or (answer.content if answer.rest is None else b"{}")
        report = read_report(told, call.num_samples)
        self._parts.chooser.learn(call, pair, report.prompt_tokens or None)
        self._underway.observed.note_prefill(
            tokens=report.prompt_tokens,
            own=report.own_hit_tokens,
            cross=report.cross_hit_tokens,
            avoidable=self._count_avoidable(report.prompt_tokens, report.cached_tokens or 0),
        )

    def _count_avoidable(self, prompt_tokens: int, cached_tokens: int) -> int:
        """Tokens that the engine computed although prefill workers have them: as many as their part of the prompt's
        bytes, since the index counts these."""
        part = self._pair.shared_bytes / max(1, self._underway.call.prompt_bytes)
        return max(0, int(part * prompt_tokens) - cached_tokens)

    def _record(self, error: BaseException | None) -> None:
        """Tell the health checks what the attempt says about the engine, if anything."""
        failure = error if isinstance(error, LegFailedError) else error and error.__cause__
        if isinstance(failure, LegFailedError):
            self._parts.health.record_failure(failure)
        elif self._answer is not None and error is None:
            self._parts.health.record_success(self._engine)
        else:
            self._engine.breaker.record_nothing()
