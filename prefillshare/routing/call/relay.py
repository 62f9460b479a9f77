"""Passing an answer on to the client: bytes as they come, nothing looked into, nothing held back."""

import asyncio
import time

import orjson

from prefillshare.config.router import Router
from prefillshare.contract import CHOICE_HEADER, MESSAGES_PATH
from prefillshare.errors import AnswerError, PrefillShareError
from prefillshare.naming.asked import describe_probabilities
from prefillshare.routing.call.caller import Caller, StreamWriter
from prefillshare.routing.call.underway import Underway
from prefillshare.routing.errors import CallTimeoutError, RoutingError, WorkerFailedError, error_body
from prefillshare.routing.http.errors import BrokenOffError
from prefillshare.routing.http.reply import Reply
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import LegFailedError
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.errors import anthropic_error

_SLACK = 1 / 16
"""Share of the idle time by which a pause between two pieces may be longer."""
OF_A_STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class StreamBrokenError(PrefillShareError):
    """A stream ended before its time; the client has been told within the stream."""


async def relay(underway: Underway, prefill: Worker, decode: Worker, answer: Answer, settings: Router) -> None:
    """Send `answer`, which `prefill` and `decode` have made, to the client; a stream piece by piece until it ends.

    Raises: StreamBrokenError.
    """
    headers = {"Content-Type": answer.content_type, "X-Prefill-Worker": prefill.id, "X-Decode-Worker": decode.id}
    if (choice := underway.call.choice) is not None:
        headers[CHOICE_HEADER] = describe_probabilities(choice.probabilities)
    if answer.rest is None:
        underway.caller.answer(answer.body, status=answer.status, headers=headers)
        return
    # The status is out: from here on a failure can only be told within the stream.
    writer = await underway.caller.begin_stream(headers=headers | OF_A_STREAM)
    try:
        await _pass_on(underway, writer, decode, answer, settings.idle_timeout_s)
    except (LegFailedError, AnswerError) as failure:
        # Where the router remembers what it passes on, it finds that it cannot be read while it writes it.
        error = failure if isinstance(failure, LegFailedError) else LegFailedError(decode, str(failure))
        told = WorkerFailedError(f"the answer broke off: {error}")
        await end_with_error(underway.caller, writer, told, patience_s=settings.idle_timeout_s)
        raise StreamBrokenError(str(error)) from error
    except TimeoutError:
        what = f"sent nothing for {settings.idle_timeout_s:g} s, or the call took too long"
        cause = LegFailedError(decode, what)
        await end_with_error(underway.caller, writer, CallTimeoutError(f"the answer stopped: {cause}"))
        raise StreamBrokenError(str(cause)) from cause


class _Pump:
    """Passes on what a worker sends, for as long as neither it nor the client pauses for too long."""

    def __init__(
        self, underway: Underway, writer: StreamWriter, decode: Worker, limit: asyncio.Timeout, idle_s: float
    ) -> None:
        self._writer = writer
        self._decode = decode
        self._limit = limit
        self._idle_s = idle_s
        self._deadline = underway.deadline
        self._loop = underway.loop
        self._renewed_at = float("-inf")

    async def run(self, piece: bytes, rest: Reply) -> None:
        """Write `piece` and what comes of the `rest`.

        Raises: LegFailedError, TimeoutError.
        """
        while piece and not rest.is_read:
            self._renew()
            await self._writer.write(piece)
            try:
                piece = await rest.read_piece(self._pass_on)
            except BrokenOffError as error:
                raise LegFailedError(self._decode, f"broke off its answer ({error})") from None
            self._decode.last_byte_at = time.monotonic()
        self._renew()
        await self._writer.write_last(piece)  # empty where the end came by itself

    def _pass_on(self, piece: bytes) -> bool:
        if not self._writer.write_at_once(piece):
            return False
        self._decode.last_byte_at = time.monotonic()
        self._renew()
        return True

    def _renew(self) -> None:
        # Writing counts too: a client that does not read is waited for no longer than a worker that does not send.
        # Pieces may come by the thousand: the limit is so much longer that it need not be set for each.
        now = self._loop.time()
        if now - self._renewed_at > _SLACK * self._idle_s and not self._limit.expired():
            self._limit.reschedule(min(now + (1 + _SLACK) * self._idle_s, self._deadline))
            self._renewed_at = now


async def _pass_on(underway: Underway, writer: StreamWriter, decode: Worker, answer: Answer, idle_s: float) -> None:
    """Write what `decode` sends.

    Raises: LegFailedError, TimeoutError.
    """
    assert answer.rest is not None
    if answer.rest.is_read and writer.takes(answer.content):
        await writer.write_last(answer.content)  # the whole answer came at once, and goes out so
        return
    async with asyncio.timeout(None) as limit:
        await _Pump(underway, writer, decode, limit, idle_s).run(answer.content, answer.rest)


async def end_with_error(caller: Caller, writer: StreamWriter, error: RoutingError, *, patience_s: float = 0.0) -> None:
    """End a stream with an error event; in the middle of an event, cut the connection, so that nobody reads on.

    So is that of a client that reads none of it within `patience_s`: it would stay here for as long as the client does.
    """
    event = _error_event(caller, error)
    if not writer.last.endswith(b"\n\n") or not (patience_s or writer.takes(event)):
        writer.cut_off()
        return
    try:
        async with asyncio.timeout(patience_s or None):
            await writer.write(event)
            await writer.write_last(b"")
    except TimeoutError:
        writer.cut_off()


def _error_event(caller: Caller, error: RoutingError) -> bytes:
    told = orjson.dumps(error_body(error))
    if caller.path.startswith(MESSAGES_PATH):
        return b"event: error\ndata: " + anthropic_error(told, error.status) + b"\n\n"
    return b"data: " + told + b"\n\n"
