"""What goes with an HTTP request inside of an engine, beside what SGLang's models read out of its body.

:mod:`sglang_patches.http.bodies` leaves it on the request when it reads the body, and takes from it when the answer
begins; ``engine/tokenizer_manager`` is between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefillshare.wire.from_router import MEMBER, FromRouter
from sglang_patches.prefill.leases import PIN_PARAMETER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request
    from sglang.srt.managers.io_struct import GenerateReqInput

    from prefillshare.tenants.account import Account

NAMESPACE = "prefillshare_namespace"
"""What its client wants to have kept apart, where SGLang's model of the body drops it."""
SCHEMA = "prefillshare_schema"
"""JSON schema, as text, that an answer is to have, where SGLang's model of the body has no member for it."""
PIN = "prefillshare_pin_s"
"""For how many seconds its caller wants its prompt to be kept."""
PREFETCH = "prefillshare_prefetch"
"""That its caller wants its prompt to be in the cache, and no answer."""
FAILURE = "prefillshare_failure"
"""Why there is no answer, where SGLang only says so."""
REPORT = "prefillshare_report"
"""What is to be told beside the answer."""


TENANT = "prefillshare_tenant"
"""Account of the tenant whose request it is; not there for everybody else's."""


def tenant_of(request: Request | None) -> Account | None:
    """The tenant whose request it is."""
    account: Account | None = None if request is None else getattr(request.state, TENANT, None)
    return account


def take_pin(obj: GenerateReqInput, request: Request | None) -> None:
    """Let the scheduler know for how long the prompt should be kept, by the only member that goes there as it is.

    Effects: changes ``obj``.
    """
    pin_s = 0 if request is None else getattr(request.state, PIN, 0)
    given = obj.sampling_params if isinstance(obj.sampling_params, list) else [obj.sampling_params]
    for params in given:
        if isinstance(params, dict) and (pin_s or isinstance(params.get("custom_params"), dict)):
            # A caller says it by hints alone, which are read and bounded.
            others = {
                name: value for name, value in (params.get("custom_params") or {}).items() if name != PIN_PARAMETER
            }
            params["custom_params"] = others | ({PIN_PARAMETER: pin_s} if pin_s else {})
    if pin_s and obj.sampling_params is None:
        obj.sampling_params = {"custom_params": {PIN_PARAMETER: pin_s}}


def take_namespace(obj: GenerateReqInput, request: Request | None) -> None:
    """Give the call its namespace.

    Effects: changes ``obj``.
    """
    namespace = None if request is None else getattr(request.state, NAMESPACE, None)
    if namespace is not None:
        obj.extra_key = namespace


def read_from_router(request: Request | None) -> FromRouter:
    """What the router said beside the call; nothing where the call has no HTTP request."""
    told: FromRouter | None = None if request is None else getattr(request.state, MEMBER, None)
    return told or {}


async def note_failure(answers: AsyncIterator[Any], request: Request) -> AsyncIterator[Any]:
    """The answers; why there are none stays with the request."""
    try:
        async for answer in answers:
            yield answer
    except ValueError as error:  # as which our checks and SGLang's refuse a call
        setattr(request.state, FAILURE, str(error))
        raise


async def note_report(answers: AsyncIterator[Any], request: Request) -> AsyncIterator[Any]:
    """The answers, of which the last says what the router hears of them."""
    async for answer in answers:
        setattr(request.state, REPORT, {"meta_info": answer["meta_info"]})
        yield answer
