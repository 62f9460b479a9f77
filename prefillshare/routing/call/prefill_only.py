"""A call that asks for no token: a prefill worker answers it alone."""

import asyncio
from collections.abc import Mapping

from prefillshare.errors import AnswerError
from prefillshare.routing.call.legs import make_prefill_only_leg
from prefillshare.routing.call.prefill_leg import run_prefill_leg
from prefillshare.routing.call.relay import OF_A_STREAM, StreamBrokenError
from prefillshare.routing.call.underway import Underway, give_up, note_silence
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import Leg


async def answer_by_prefill(parts: Parts, underway: Underway, pair: Pair) -> int:
    """Give the caller the prefill worker's own answer; return its status.

    Raises: LegFailedError, ShortageError, StreamBrokenError, CallTimeoutError.
    """
    answer = await ask_prefill(parts, underway, pair, make_prefill_only_leg(underway.call, pair.prefill))
    headers = {"Content-Type": answer.content_type, "X-Prefill-Worker": pair.prefill.id}
    body = answer.body if answer.status != 200 or underway.call.prefetched_for is None else answer.told
    if answer.status == 200 and underway.call.is_stream:
        await _write_stream(underway, body, headers | OF_A_STREAM, parts.settings.router.idle_timeout_s)
    else:
        underway.caller.answer(body, status=answer.status, headers=headers)
    return answer.status


async def _write_stream(underway: Underway, body: bytes, headers: Mapping[str, str], idle_s: float) -> None:
    """Send the client a stream that has come whole.

    Raises: StreamBrokenError.
    """
    writer = await underway.caller.begin_stream(headers=headers)
    try:
        async with asyncio.timeout(idle_s):
            await writer.write_last(body)
    except (AnswerError, TimeoutError) as error:  # no response for whoever remembers it; a client that reads nothing
        writer.cut_off()
        raise StreamBrokenError(str(error) or f"the client read nothing for {idle_s:g} s") from error


async def ask_prefill(parts: Parts, underway: Underway, pair: Pair, leg: Leg) -> Answer:
    """Send a leg that hands its KV to nobody, and return the prefill worker's answer.

    Raises: LegFailedError, ShortageError, CallTimeoutError.
    """
    try:
        async with asyncio.timeout_at(underway.deadline):
            return await run_prefill_leg(parts, underway, pair, leg)
    except asyncio.CancelledError:
        parts.client.abort(leg)
        raise
    except TimeoutError:
        parts.client.abort(leg)
        cause = note_silence(pair.prefill, parts.settings.router.total_timeout_s)
        parts.health.record_failure(cause)
        give_up(cause)
