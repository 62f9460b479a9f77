"""The HTTP process of an engine counts its requests: per decode module and session, exactly.

A request's state carries an observation (:mod:`prefillshare.observe`) from its beginning to its end; each output adds
to it what SGLang's own metrics get, at the same place. Requests that are no part of the load (health checks) are left
out. On a prefill worker the router's header names the decode module, since the call itself names the prefill module; it
travels as ``routing_key``, which no other policy than ``routing-key`` looks at. ``engine/tokenizer_manager`` calls.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from typing import TYPE_CHECKING, Any

from prefillshare.contract import MODULE_HEADER, SESSION_HEADER
from prefillshare.observe.observer import Observed, Observer, outcome_of
from prefillshare.observe.sessions import Prompt
from prefillshare.wire.text import decode_header
from sglang_patches.disaggregation.role import is_behind_router, is_decode_worker, is_prefill_worker
from sglang_patches.http.model_names import served_names
from sglang_patches.http.request_state import tenant_of
from sglang_patches.observed.call_report import read_note
from sglang_patches.observed.traces import describe_begin

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.managers.io_struct import AbortReq, BatchStrOutput, GenerateReqInput
    from sglang.srt.managers.tokenizer_manager import ReqState, TokenizerManager
    from sglang.srt.observability.req_time_stats import SchedulerReqTimeStats

    from prefillshare.tenants.account import Account
    from prefillshare.wire.call_report import CallReport


def begin(manager: TokenizerManager, obj: GenerateReqInput, request: Request | None, states: list[ReqState]) -> None:
    """A call came: each request that it makes has a state, which carries its observation."""
    if request is not None and not is_behind_router():
        obj.prefillshare_session = _read_session(obj, request)
    elif request is not None and is_prefill_worker():
        obj.routing_key = _read_header(request, MODULE_HEADER)
    # A call for several prompts makes a request of each, whose object was made before its name was known.
    session = getattr(obj, "prefillshare_session", None)
    path = request.url.path if request is not None else ""
    for state in states:
        state.obj.routing_key = obj.routing_key
        state.session_name = session
        state.observed = _begin(manager, state.obj, session, tenant_of(request))
        describe_begin(state, module_of(manager, state.obj), path, session)


def _read_session(obj: GenerateReqInput, request: Request) -> str | None:
    user = getattr(request.state, "prefillshare_user", None)
    given: str | None = _read_header(request, SESSION_HEADER) or getattr(obj, "session_id", None) or user
    account = tenant_of(request)
    return given if account is None or not given else account.session_name(given)


def _read_header(request: Request, name: str) -> str | None:
    value = request.headers.get(name)
    # Starlette reads every header as Latin-1.
    return value and decode_header(value.encode("latin-1"))


def _begin(
    manager: TokenizerManager, obj: GenerateReqInput, session: str | None, tenant: Account | None
) -> Observed | None:
    """The observation of one request; None when it names an adapter that is not there, and is refused in a moment."""
    if obj.lora_path and obj.lora_path not in served_names(manager)[1]:
        return None
    # Sessions are the router's business where there is one.
    prompt = Prompt(data=b"") if is_behind_router() else _read_prompt(obj)
    observer: Observer = manager.observer
    return observer.begin(module_of(manager, obj), session=session, prompt=prompt, ledger=tenant)


def module_of(manager: TokenizerManager, obj: GenerateReqInput) -> str:
    """The decode module that answers a request; the prefill module where none does."""
    given = obj.routing_key if is_prefill_worker() else obj.lora_path
    name: str = given or manager.served_model_name
    return name


def _read_prompt(obj: GenerateReqInput) -> Prompt:
    namespace = str(obj.extra_key or "")
    if isinstance(obj.text, str):
        return Prompt(data=obj.text.encode(errors="replace"), namespace=namespace)
    try:
        ids = array("i", obj.input_ids or ())
    except (TypeError, OverflowError):  # a bad request, refused a moment later
        return Prompt(data=b"")
    return Prompt(data=ids.tobytes(), token_bytes=ids.itemsize, namespace=namespace)


def count_output(observer: Observer, state: ReqState, recv_obj: BatchStrOutput, i: int) -> None:
    """The scheduler told of new tokens, or of the end, of the request at place ``i`` of its message."""
    observed: Observed | None = getattr(state, "observed", None)
    if observed is None:
        return
    # Set with the first output, so its absence says that this is the first.
    if not hasattr(state, "observed_last"):
        _count_first_output(observed, state, recv_obj, i)
    if not is_prefill_worker():
        _count_tokens(observed, state, recv_obj.completion_tokens[i])
    if state.finished:
        _count_end(observer, observed, state, recv_obj, i)


def _count_first_output(observed: Observed, state: ReqState, recv_obj: BatchStrOutput, i: int) -> None:
    """The prefill is done, or the request failed before it."""
    stamps = recv_obj.time_stats[i] if recv_obj.time_stats else None
    state.observed_last = _first_token_time(state, stamps)
    # The scheduler's note comes with the first token (``call_report.note``).
    found = _read_note(state, recv_obj, i)
    if stamps is not None and stamps.forward_entry_time > stamps.wait_queue_entry_time > 0:
        observed.note_wait(_held_back_s(state) + stamps.get_queueing_time())
    if not found:
        return
    num_tokens = recv_obj.prompt_tokens[i]
    if is_decode_worker():
        # What it need not fetch, it holds from its own module's earlier calls.
        observed.note_prefill(tokens=num_tokens, own=num_tokens - found["handoff_tokens"], cross=0)
    else:
        own, cross = found.get("own_hit_tokens", 0), found.get("cross_hit_tokens", 0)
        observed.note_prefill(tokens=num_tokens, own=own, cross=cross, avoidable=found.get("avoidable_tokens", 0))


def _read_note(state: ReqState, recv_obj: BatchStrOutput, i: int) -> CallReport:
    """The scheduler's note on a request that got what it asked for.

    Without a token that is one that asked for none: no other has come so far, but one that computes the prompt of
    several samples, each of which is counted with it.
    """
    params = state.obj.sampling_params
    asks_for_none = isinstance(params, dict) and params.get("max_new_tokens") == 0
    is_told = asks_for_none or recv_obj.completion_tokens[i] > 0
    return read_note(state.customized_info_accumulated) if is_told else {}


def _held_back_s(state: ReqState) -> float:
    """How long it waited for memory before the scheduler was sent it."""
    sent: float = state.time_stats.api_server_dispatch_time
    tokenized: float = state.time_stats.tokenize_finish_time
    return max(sent - tokenized, 0.0) if tokenized > 0 else 0.0


def _first_token_time(state: ReqState, stamps: SchedulerReqTimeStats | None) -> float:
    """When the first token was there, which the first output tells only of a stream.

    Without a stream it is the end of the prefill; on a decode worker the begin of decoding, one step before.
    """
    arrived: float = state.time_stats.first_token_time
    if getattr(state.obj, "stream", False) or stamps is None:
        return arrived
    stamp: float = stamps.forward_entry_time if is_decode_worker() else stamps.prefill_finished_time
    return stamp if state.time_stats.created_time < stamp < arrived else arrived


def _count_tokens(observed: Observed, state: ReqState, num_tokens: int) -> None:
    # A message may come without a new token, such as that of an abort.
    if num_tokens <= observed.num_tokens:
        return
    if observed.num_tokens == 0:
        observed.note_first_token(state.observed_last - state.time_stats.created_time)
    now = time.perf_counter()
    if num_tokens > observed.num_tokens:
        observed.note_tokens(num_tokens - observed.num_tokens, now - state.observed_last)
        state.observed_last = now


def _count_end(observer: Observer, observed: Observed, state: ReqState, recv_obj: BatchStrOutput, i: int) -> None:
    found = _read_note(state, recv_obj, i)
    if "handoff_tokens" in found:
        observer.handoffs.add(
            tokens=found["handoff_tokens"],
            size=found["handoff_bytes"],
            seconds=found.get("handoff_seconds"),
            is_by_memory=found.get("handoff_by_memory"),
        )
    _end(observed, state, recv_obj.finished_reasons[i], recv_obj.retraction_counts[i])


def _end(observed: Observed, state: ReqState, reason: dict[str, Any], num_retractions: int = 0) -> None:
    seconds = state.time_stats.get_e2e_latency()
    if reason.get("type") != "abort":
        observed.end("ok", seconds=seconds, retractions=num_retractions)
    elif (status := reason.get("status_code")) is None or state.abort_requested:
        observed.end("aborted", retractions=num_retractions)
    else:
        observed.end(outcome_of(int(status)), retractions=num_retractions, reason=str(reason.get("message")))


def end_aborted(state: ReqState, recv_obj: AbortReq) -> None:
    """The scheduler gave a request up, and its state is gone."""
    observed: Observed | None = getattr(state, "observed", None)
    if observed is not None:
        _end(observed, state, recv_obj.finished_reason or {"type": "abort"})


def end_unfinished(state: ReqState) -> None:
    """A state goes before its request has finished; called where the exception is handled that made it go."""
    observed: Observed | None = getattr(state, "observed", None)
    if observed is None:
        return
    error = sys.exception()
    if error is None:
        observed.withdraw()  # its samples were sent as requests of their own
    elif state.abort_requested or isinstance(error, asyncio.CancelledError | GeneratorExit):
        observed.end("aborted")
    else:
        # SGLang's HTTP routes answer a ValueError with 400: what was asked cannot be computed.
        status = getattr(error, "status_code", 400 if isinstance(error, ValueError) else 500)
        observed.end(outcome_of(status), reason=str(error))
