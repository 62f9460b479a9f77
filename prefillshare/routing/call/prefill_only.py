"""A call that asks for no token: a prefill worker answers it alone."""

import asyncio

from prefillshare.routing.call.legs import make_prefill_only_leg
from prefillshare.routing.call.prefill_leg import run_prefill_leg
from prefillshare.routing.call.underway import Underway, give_up, note_silence
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import Leg


async def answer_by_prefill(parts: Parts, underway: Underway, pair: Pair) -> int:
    """Give the caller the prefill worker's own answer; return its status.

    Raises: LegFailedError, ShortageError, CallTimeoutError.
    """
    answer = await ask_prefill(parts, underway, pair, make_prefill_only_leg(underway.call, pair.prefill))
    headers = {"Content-Type": answer.content_type, "X-Prefill-Worker": pair.prefill.id}
    underway.caller.answer(answer.body, status=answer.status, headers=headers)
    return answer.status


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
