"""The two HTTP calls that make one answer: the prefill leg and the decode leg.

Both get the client's body and one bootstrap room per prompt, under which the prefill worker offers the KV and the
decode worker fetches it. The prefill leg asks for the prefill module, for nothing of what the client wants to know of
the answer, and its own answer counts only as a report; the answer of the decode leg is the client's. A call that asks
for no token has a prefill leg alone, which hands its KV to nobody and whose answer is the client's. An engine whose
module computes prompts itself is sent the whole call, as a client of its own would send it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import orjson

from prefillshare.contract import MODULE_HEADER, NO_BOOTSTRAP_HOST
from prefillshare.responses.forms import read_response
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.prefetch import name_module
from prefillshare.routing.call.scoring import read_scores
from prefillshare.routing.workers.answer import read_json
from prefillshare.routing.workers.leg import Leg
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.from_router import MEMBER, FromRouter, PromptLogprobs
from prefillshare.wire.hidden_states import read_states

_ROOM_BITS = 62
"""One less than there are, for samples of a prompt are counted up from its room."""
_RID_BITS = 128
_WRAPPED = ("/v1/messages", "/v1/responses")
"""Endpoints whose models at the workers know nothing of pairs."""
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
T = TypeVar("T")


def make_legs(call: Call, prefill: Worker, decode: Worker, base: str) -> tuple[Leg, Leg]:
    """Return the prefill leg and the decode leg of one attempt, with fresh rooms and request ids."""
    bootstrap: dict[str, Any] = {
        "bootstrap_host": _per_prompt(call, lambda: prefill.spec.bootstrap_host),
        "bootstrap_port": _per_prompt(call, lambda: prefill.spec.bootstrap_port),
        "bootstrap_room": _make_rooms(call),
    }
    return (
        # It is asked for the base, and counts its cache hits by whom it works for.
        _make_leg(call, prefill, bootstrap | _prefill_fields(call, base) | _told(call), {MODULE_HEADER: call.module}),
        _make_answering_leg(call, decode, bootstrap | _decode_fields(call, decode)),
    )


def make_prefill_only_leg(call: Call, prefill: Worker) -> Leg:
    """Return the one leg of a call that asks for no token."""
    bootstrap: dict[str, Any] = {
        "bootstrap_host": _per_prompt(call, lambda: NO_BOOTSTRAP_HOST),
        "bootstrap_room": _make_rooms(call),
    }
    fields = bootstrap | {"stream": call.is_stream, **call.answer_fields}
    if call.prefetched_for is None:
        return _make_answering_leg(call, prefill, fields, {MODULE_HEADER: call.module})
    fields |= {} if call.endpoint == "/generate" else {"model": call.module}
    read = partial(name_module, endpoint=call.endpoint, module=call.prefetched_for, is_stream=call.is_stream)
    return replace(_make_leg(call, prefill, fields, {MODULE_HEADER: call.prefetched_for}), read=read)


def make_choice_leg(call: Call, prefill: Worker, base: str, choice_id: str) -> Leg:
    """Return the leg that asks `prefill` what it makes of the prompts of a call whose module is still to be chosen."""
    bootstrap: dict[str, Any] = {
        "bootstrap_host": _per_prompt(call, lambda: NO_BOOTSTRAP_HOST),
        "bootstrap_room": _make_rooms(call),
    }
    told: FromRouter = {"choice": choice_id}
    leg = _make_leg(call, prefill, bootstrap | _prefill_fields(call, base) | {MEMBER: told})
    return replace(leg, read=read_states)


def _told(call: Call) -> dict[str, Any]:
    """Return what a prefill worker is told beside the body of a call."""
    return {} if call.choice is None else {MEMBER: FromRouter(chosen_by=call.choice.id)}


def make_whole_leg(call: Call, engine: Worker) -> Leg:
    """Return the one leg of a call that an engine answers alone."""
    return _make_answering_leg(call, engine, _decode_fields(call, engine))


def make_scoring_leg(call: Call, prefill: Worker) -> Leg:
    """Return the leg that asks `prefill` for the log-probabilities of the prompts, before it computes their KV."""
    assert call.scoring is not None
    scoring = replace(
        call, endpoint="/generate", is_stream=False, shared_body=orjson.dumps(call.scoring), answer_fields={}
    )
    return replace(make_prefill_only_leg(scoring, prefill), read=read_scores)


def add_scores(leg: Leg, scores: Sequence[PromptLogprobs]) -> Leg:
    """Return the decode leg with what was asked before it."""
    told: FromRouter = {"prompt_logprobs": scores}
    return replace(leg, body=leg.body[:-1] + b"," + orjson.dumps({MEMBER: told})[1:])


def _make_answering_leg(
    call: Call, worker: Worker, fields: Mapping[str, Any], headers: Mapping[str, str] = _NO_HEADERS
) -> Leg:
    """Return a leg whose answer is the client's: the router reads it where it remembers it, or charges a tenant."""
    leg = _make_leg(call, worker, fields, headers)
    if call.endpoint == "/v1/responses":
        return replace(leg, read=read_response)
    return leg if call.account is None else replace(leg, read=read_json)


def _make_leg(call: Call, worker: Worker, fields: Mapping[str, Any], headers: Mapping[str, str] = _NO_HEADERS) -> Leg:
    rid = _per_prompt(call, _make_rid)
    own = orjson.dumps(_wrap({**fields, "rid": rid}) if call.endpoint in _WRAPPED else {**fields, "rid": rid})
    return Leg(
        worker=worker,
        path=call.endpoint,
        body=call.shared_body[:-1] + b"," + own[1:],
        rids=tuple(rid) if isinstance(rid, list) else (rid,),
        headers=headers,
    )


def _wrap(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return `fields`, those that SGLang's models have no place for under a member that they never see."""
    told = {name: value for name, value in fields.items() if name in FromRouter.__annotations__}
    others = {name: value for name, value in fields.items() if name not in told}
    return others | {MEMBER: {**others.get(MEMBER, {}), **told}}


def _make_rooms(call: Call) -> int | list[int]:
    # Nobody hands rooms out: of so many, no two calls of any router before these workers draw the same.
    return _per_prompt(call, _make_room)


def _make_room() -> int:
    return random.getrandbits(_ROOM_BITS) or 1  # 0 is no room


def _make_rid() -> str:
    # Its only reader is a worker; it need not be hard to guess, and the system's generator takes as long as a parser.
    return f"{random.getrandbits(_RID_BITS):032x}"


def _per_prompt(call: Call, make: Callable[[], T]) -> T | list[T]:
    """Return what `make` makes: once for a single prompt, a list with one for each prompt of a batch."""
    return make() if call.num_prompts is None else [make() for _ in range(call.num_prompts)]


def _prefill_fields(call: Call, base: str) -> dict[str, Any]:
    return {"stream": False} if call.endpoint == "/generate" else {"stream": False, "model": base}


def _decode_fields(call: Call, decode: Worker) -> dict[str, Any]:
    fields: dict[str, Any] = {"stream": call.is_stream, **call.answer_fields}
    if call.endpoint == "/generate":
        # SGLang's own interface knows no model names, only adapters.
        return fields | ({"lora_path": call.module} if decode.is_adapter else {})
    return fields | {"model": call.module}
