"""The prefill leg on its way: what the router learns from it, whoever waits for it."""

import asyncio

from prefillshare.routing.call.prefill_report import read_report
from prefillshare.routing.call.scoring import Scoring
from prefillshare.routing.call.underway import Underway
from prefillshare.routing.choice.chooser import Pair
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.parts import Parts
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import Leg, LegFailedError
from prefillshare.routing.workers.open_prompts import PrefillTimes, begin_prompt, end_prompt


async def run_prefill_leg(
    parts: Parts, underway: Underway, pair: Pair, leg: Leg, scoring: Scoring | None = None
) -> Answer:
    """Send the leg, return the worker's answer, and give the prefill worker of `pair` back.

    Where `scoring` is given, that is asked first, and what comes of it is left there; a refusal of it is the answer.

    Raises: LegFailedError, of which the health checks have heard; ShortageError.
    """
    worker, prompt = pair.prefill, begin_prompt(pair.prefill, pair.decode, pair.expected_tokens)
    computed, times = None, PrefillTimes()
    try:
        first = None if scoring is None else await _ask_scores(parts, underway, scoring)
        if first is not None and first.status != 200:
            parts.health.record_success(worker)
            return first
        answer = await parts.client.send(leg, underway.span.headers, is_stream=False)
        parts.health.record_success(worker)
        if answer.status == 200:
            # Where scores were asked first, these computed the prompt, and the leg found it there.
            computed, times = _learn(parts, underway, pair, answer if first is None else first)
        return answer
    except LegFailedError as error:
        parts.health.record_failure(error)
        raise
    except (asyncio.CancelledError, ShortageError):
        worker.breaker.record_nothing()
        raise
    finally:
        # The place at the worker is this leg's alone: the decode leg may go on for minutes, or be over already.
        end_prompt(prompt, computed, times)
        parts.admission.release(worker)


async def _ask_scores(parts: Parts, underway: Underway, scoring: Scoring) -> Answer:
    """Ask for the scores, leave them there and return the answer.

    Raises: LegFailedError, also for an answer that has none; ShortageError.
    """
    answer = await parts.client.send(scoring.leg, underway.span.headers, is_stream=False)
    if answer.status == 200 and not scoring.scores.done():  # whoever waited may have left
        scoring.scores.set_result(answer.told)
    return answer


def _learn(parts: Parts, underway: Underway, pair: Pair, answer: Answer) -> tuple[int, PrefillTimes]:
    """Take in the report in `answer`; return how many tokens were computed, by the index's estimate if it is not told,
    and the times that it tells.

    The workers hold the prompt from now on, not from the choice on: a call that comes before this finds it nowhere.
    """
    report = read_report(
        answer.report or answer.content, 1 if underway.call.scoring is not None else underway.call.num_samples
    )
    parts.chooser.learn(underway.call, pair, report.prompt_tokens or None)
    underway.observed.note_prefill(
        tokens=report.prompt_tokens, own=report.own_hit_tokens, cross=report.cross_hit_tokens
    )
    computed = round(pair.expected_tokens) if report.computed_tokens is None else report.computed_tokens
    return computed, PrefillTimes(computing_s=report.computing_s, handoff_s=report.handoff_s)
