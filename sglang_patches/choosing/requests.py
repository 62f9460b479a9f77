"""A choice among the requests of the HTTP process: made of a call, for no token, with the hidden state as its answer.

:mod:`sglang_patches.engine.tokenizer_manager` asks when a call arrives; :mod:`sglang_patches.choosing.asking` has left
a :class:`Choice` on the HTTP request.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from sglang_patches.choosing.marks import CHOICE_PARAMETER, CHOSEN_PARAMETER, OWN_PARAMETERS, read_mark
from sglang_patches.disaggregation.requests import LOGPROB_FIELDS, NEUTRAL_FIELDS
from sglang_patches.http.request_state import read_from_router

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.managers.io_struct import GenerateReqInput, TokenizedGenerateReqInput

    from prefillshare.naming.asked import Judge, Probabilities

CHOICE = "prefillshare_choice"
"""Attribute of an HTTP request's state: the choice that is made of it."""
CHOSEN = "prefillshare_chosen"
"""The same: the choice that was made of this call just before."""

_NOTHING = {"temperature": 0, "max_new_tokens": 0}


class Choice:
    """What the prefill module makes of the prompts of one call."""

    def __init__(self, choice_id: str | None = None) -> None:
        self.id = choice_id or uuid.uuid4().hex
        self.states: list[list[float]] = []
        """Hidden state of the last token of each prompt; empty when it did not come to that."""
        self.infos: list[dict[str, Any]] = []
        """What SGLang says of the request of each prompt."""
        self.probabilities: Probabilities = {}
        """How likely each module is, once a classifier was asked."""

    def ask(self, judge: Judge, states: Sequence[object]) -> Probabilities:
        """Ask a classifier.

        Raises: ModuleError.
        """
        self.probabilities = judge(states)
        return self.probabilities

    async def collect(self, answers: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The answers, without the states that came with them."""
        async for answer in answers:
            infos = [item["meta_info"] for item in (answer if isinstance(answer, list) else [answer])]
            states = [info.pop("hidden_states", None) for info in infos]
            # Of one that was aborted there is none.
            if all(states):
                self.states, self.infos = states, infos
            yield answer


def read_as_choice(obj: GenerateReqInput, request: Request | None) -> Choice | None:
    """Leave of a call what decides who answers it, if it is to be a choice.

    Effects: changes ``obj``.
    """
    choice: Choice | None = None if request is None else getattr(request.state, CHOICE, None)
    if choice is None:
        return None
    for name, value in (NEUTRAL_FIELDS | LOGPROB_FIELDS).items():
        setattr(obj, name, value)
    is_batch = isinstance(obj.sampling_params, list)
    obj.sampling_params = [dict(_NOTHING) for _ in obj.sampling_params] if is_batch else dict(_NOTHING)
    # The call is counted, its choice is no call.
    obj.log_metrics = False
    return choice


def take_mark(obj: GenerateReqInput, request: Request | None, choice: Choice | None) -> None:
    """Let the scheduler know a choice, or the call that follows one.

    Effects: changes ``obj``.
    """
    mark = {}
    if choice is not None:
        mark = {CHOICE_PARAMETER: choice.id}
    elif (chosen_by := _chosen_by(request)) is not None:
        mark = {CHOSEN_PARAMETER: chosen_by}
    if mark and obj.sampling_params is None:
        obj.sampling_params = {}
    for params in obj.sampling_params if isinstance(obj.sampling_params, list) else [obj.sampling_params]:
        given = params.get("custom_params") if isinstance(params, dict) else None
        if mark or (isinstance(given, dict) and not given.keys().isdisjoint(OWN_PARAMETERS)):
            others = {name: value for name, value in (given or {}).items() if name not in OWN_PARAMETERS}
            params["custom_params"] = others | mark


def _chosen_by(request: Request | None) -> str | None:
    if request is None:
        return None
    own: Choice | None = getattr(request.state, CHOSEN, None)
    return own.id if own is not None else read_from_router(request).get("chosen_by")


def ask_for_state(call: TokenizedGenerateReqInput) -> None:
    """Let a request bring the hidden state of its prompt's last token back, if it is a choice.

    SGLang has the way for it; its check of the server's own setting is about what callers may ask.
    """
    if read_mark(call.sampling_params.custom_params, CHOICE_PARAMETER) is not None:
        call.return_hidden_states = "last"
