"""Prompts on their way to a decode worker: which the prefill worker still computes, and which wait for room.

A prefill leg is open from the call's start until its KV is handed off, and nobody tells how far it is. Who waits in the
decode worker for room has the prefill worker's leg open all the time, before its computation or after it. So each
prompt has a time by which the prefill worker, by its backlog and speed, has had long enough:

    begin |----- the prefill worker's -----| due |----- the decode worker's, which has no room -----| end
"""

from dataclasses import dataclass

from prefillshare.routing.workers.worker import Worker

_PATIENCE = 2.0
"""Estimates may be wrong by so much before a prompt is taken for computed."""
_GRACE_S = 0.5
"""And the hand-off itself takes so long."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenPrompt:
    """One prompt on its way."""

    prefill: Worker
    """Who computes it."""
    decode: Worker | None
    """Who gets it; None for a call that asks for no token."""
    expected_tokens: float
    """Tokens to compute."""
    begun_at: float
    """When it was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTimes:
    """What the prefill worker tells of the times of one prompt."""

    computing_s: float | None = None
    """From when it could begin, the decode worker's room being there, to the end of the computation; None when it was
    not told."""
    handoff_s: float = 0.0
    """From then on to the end of the hand-off."""


_UNTOLD = PrefillTimes()


def begin_prompt(prefill: Worker, decode: Worker | None, expected_tokens: float) -> OpenPrompt:
    """Note that a prompt was sent."""
    begun_at = prefill.speed.begin(expected_tokens)
    prompt = OpenPrompt(prefill=prefill, decode=decode, expected_tokens=expected_tokens, begun_at=begun_at)
    due_at = begun_at + _PATIENCE * prefill.speed.backlog_s + _GRACE_S
    for worker in filter(None, (prefill, decode)):
        worker.prompts_due[prompt] = due_at
    return prompt


def end_prompt(prompt: OpenPrompt, computed_tokens: int | None, times: PrefillTimes = _UNTOLD) -> None:
    """Note that a prompt is where it was wanted, or that its call failed: `computed_tokens` is None then."""
    for worker in filter(None, (prompt.prefill, prompt.decode)):
        del worker.prompts_due[prompt]
    prompt.prefill.speed.finish(
        prompt.expected_tokens,
        computed_tokens,
        prompt.begun_at,
        computing_s=times.computing_s,
        handoff_s=times.handoff_s,
    )
