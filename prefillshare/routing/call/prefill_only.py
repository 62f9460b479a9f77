"""A call that asks for no token: a prefill worker answers it alone."""

import asyncio

from prefillshare.routing.call.legs import make_prefill_only_leg
from prefillshare.routing.call.prefill_leg import run_prefill_leg
from prefillshare.routing.call.underway import Underway, give_up, note_silence
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.parts import Parts


async def answer_by_prefill(parts: Parts, underway: Underway, pair: Pair) -> int:
    """Give the caller the prefill worker's own answer; return its status.

    Raises: LegFailedError, ShortageError, CallTimeoutError.
    """
    leg = make_prefill_only_leg(underway.call, pair.prefill)
    try:
        async with asyncio.timeout_at(underway.deadline):
            answer = await run_prefill_leg(parts, underway, pair, leg)
    except asyncio.CancelledError:
        parts.client.abort(leg)
        raise
    except TimeoutError:
        parts.client.abort(leg)
        cause = note_silence(pair.prefill, parts.settings.router.total_timeout_s)
        parts.health.record_failure(cause)
        give_up(cause)
    headers = {"Content-Type": answer.content_type, "X-Prefill-Worker": pair.prefill.id}
    underway.caller.answer(answer.body, status=answer.status, headers=headers)
    return answer.status
