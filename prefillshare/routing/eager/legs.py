"""The requests of a job: one to the prefill worker, and a pair for a push.

All ask for no token. What the prefill worker computes alone stays in its cache; of a push it hands the decode worker
what that lacks, and the decode worker keeps it in its tree as it keeps the prompt of any call that has ended. The first
is told by its header, for the prefill worker decides when it is computed; of a push nothing is left to be computed but
a token, and both workers tell it by its request id.
"""

import random
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from prefillshare.contract import EAGER_HEADER, EAGER_RID_PREFIX, MODULE_HEADER, NO_BOOTSTRAP_HOST, PUSH_RID_PREFIX
from prefillshare.routing.workers.leg import Leg
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.continuation import Continuation

_MAX_ROOM = 2**63 - 1
_PATH = "/generate"


def make_prefill(continuation: Continuation, prefill: Worker) -> Leg:
    """Return the request that makes the KV of `continuation` at `prefill`."""
    bootstrap = {"bootstrap_host": NO_BOOTSTRAP_HOST, "bootstrap_room": _make_room()}
    headers = {EAGER_HEADER: "1", MODULE_HEADER: continuation.module}
    leg = _make_leg(continuation, prefill, uuid.uuid4().hex, bootstrap, headers)
    # The worker makes another id of it, by which the job is aborted there.
    return replace(leg, rids=tuple(f"{EAGER_RID_PREFIX}{rid}" for rid in leg.rids))


def make_push(continuation: Continuation, prefill: Worker, decode: Worker) -> tuple[Leg, Leg]:
    """Return the prefill leg and the decode leg that take the KV of `continuation` from one to the other."""
    assert decode.spec.module is not None
    bootstrap = {
        "bootstrap_host": prefill.spec.bootstrap_host,
        "bootstrap_port": prefill.spec.bootstrap_port,
        "bootstrap_room": _make_room(),
    }
    # SGLang's own interface knows no model names, only adapters.
    adapter = {"lora_path": decode.spec.module} if decode.is_adapter else {}
    rid = f"{PUSH_RID_PREFIX}{uuid.uuid4().hex}"
    return (
        _make_leg(continuation, prefill, rid, bootstrap, {MODULE_HEADER: decode.spec.module}),
        _make_leg(continuation, decode, rid, bootstrap | adapter, {}),
    )


def _make_leg(
    continuation: Continuation, worker: Worker, rid: str, fields: Mapping[str, Any], headers: Mapping[str, str]
) -> Leg:
    body = {
        "input_ids": continuation.input_ids,
        "extra_key": continuation.extra_key,
        "sampling_params": {"max_new_tokens": 0, "temperature": 0},
        "stream": False,
        "rid": rid,
        **fields,
    }
    return Leg(worker=worker, path=_PATH, body=orjson.dumps(body), rids=(rid,), headers=headers)


def _make_room() -> int:
    # As for calls: of so many, no two draw the same.
    return random.randint(1, _MAX_ROOM)
