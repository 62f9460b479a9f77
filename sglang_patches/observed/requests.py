"""The HTTP process of an engine counts its requests: per decode module and session, exactly.

Target: ``sglang.srt.managers.tokenizer_manager.TokenizerManager``, ``_init_req_state``, ``collect_metrics``,
    ``_remove_req_state`` and ``_handle_abort_req``
Why: SGLang's own metrics know no decode module, no session, and cached tokens only as a sum. A prefill worker is asked
    by the prefill module's name and would not know for whom it works.
How: a request's state carries an observation (:mod:`prefillshare.observe`) from its beginning to its end; each output
    adds to it what SGLang's own metrics get, at the same place. Requests that are no part of the load (health checks)
    are left out. On a prefill worker the router's header names the decode module; it travels as ``routing_key``,
    which no other policy than ``routing-key`` looks at.
Upstream: sglang/srt/managers/tokenizer_manager.py:3414, :2828, :3384 and :3138 at 0.5.17.
Remove when: upstream has metrics per adapter and a hook for the end of a request.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

from prefillshare.contract import MODULE_HEADER, SESSION_HEADER
from prefillshare.observe.observer import Observed, Observer
from prefillshare.observe.sessions import Prompt
from prefillshare.wire.text import header_text
from sglang_patches.disaggregation.role import is_decode_worker, is_prefill_worker, worker_role
from sglang_patches.http.model_names import served_names
from sglang_patches.observed.call_report import noted
from sglang_patches.observed.traces import name_module


def observer_of(tokenizer_manager: Any) -> Observer:
    """The one observer of this process."""
    known: Observer | None = getattr(tokenizer_manager, "prefillshare_observer", None)
    if known is None:
        known = tokenizer_manager.prefillshare_observer = Observer()
    return known


def wrap_init_req_state(original: Callable[..., dict[str, object]]) -> Callable[..., dict[str, object]]:
    def _init_req_state(self: Any, obj: Any, request: Any = None, *args: Any, **kwargs: Any) -> dict[str, object]:
        lifecycles = original(self, obj, request, *args, **kwargs)
        if not getattr(obj, "log_metrics", False):
            return lifecycles
        if request is not None and worker_role() == "null":
            obj.prefillshare_session = _session_name(obj, request)
        elif request is not None and is_prefill_worker():
            obj.routing_key = _header(request, MODULE_HEADER)
        for rid in lifecycles:
            state = self.rid_to_state[rid]
            state.obj.routing_key = obj.routing_key
            state.observed = _begin(self, state.obj, getattr(obj, "prefillshare_session", None))
            name_module(state, _module_of(self, state.obj))
        return lifecycles

    return _init_req_state


def _session_name(obj: Any, request: Any) -> str | None:
    user = getattr(request.state, "prefillshare_user", None)
    return _header(request, SESSION_HEADER) or getattr(obj, "session_id", None) or user


def _header(request: Any, name: str) -> str | None:
    value = request.headers.get(name)
    # Starlette reads every header as Latin-1.
    return value and header_text(value.encode("latin-1"))


def _begin(manager: Any, obj: Any, session: str | None) -> Observed | None:
    """The observation of one request; None when it names an adapter that is not there, and is refused in a moment."""
    if obj.lora_path and obj.lora_path not in served_names(manager)[1]:
        return None
    # Sessions are the router's business where there is one.
    prompt = _prompt(obj) if worker_role() == "null" else Prompt(data=b"")
    return observer_of(manager).begin(_module_of(manager, obj), session=session, prompt=prompt)


def _module_of(manager: Any, obj: Any) -> str:
    given = obj.routing_key if is_prefill_worker() else obj.lora_path
    name: str = given or manager.served_model_name
    return name


def _prompt(obj: Any) -> Prompt:
    namespace = str(obj.extra_key or "")
    if isinstance(obj.text, str):
        return Prompt(data=obj.text.encode(errors="replace"), namespace=namespace)
    try:
        ids = array("i", obj.input_ids or ())
    except (TypeError, OverflowError):  # a bad request, refused a moment later
        return Prompt(data=b"")
    return Prompt(data=ids.tobytes(), token_bytes=ids.itemsize, namespace=namespace)


def wrap_collect_metrics(original: Callable[..., None]) -> Callable[..., None]:
    def collect_metrics(self: Any, state: Any, recv_obj: Any, i: int) -> None:
        original(self, state, recv_obj, i)
        observed = getattr(state, "observed", None)
        if observed is None:
            return
        if not hasattr(state, "observed_last"):
            _first_output(observed, state, recv_obj, i)
        if not is_prefill_worker():
            _tokens(observed, state, recv_obj.completion_tokens[i])
        if state.finished:
            _finished(self, observed, state, recv_obj, i)

    return collect_metrics


def _first_output(observed: Observed, state: Any, recv_obj: Any, i: int) -> None:
    """The prefill is done, or the request failed before it."""
    stamps = recv_obj.time_stats[i] if recv_obj.time_stats else None
    state.observed_last = _first_token_time(state, stamps)
    found = noted(state.customized_info_accumulated)
    if stamps is not None and stamps.forward_entry_time > stamps.wait_queue_entry_time > 0:
        observed.waited(stamps.get_queueing_time())
    if not found:
        return
    num_tokens = recv_obj.prompt_tokens[i]
    if is_decode_worker():
        # What it need not fetch, it holds from its own module's earlier calls.
        observed.prefilled(tokens=num_tokens, own=int(num_tokens - found["handoff_tokens"]), cross=0)
    else:
        own, cross = found.get("own_hit_tokens", 0), found.get("cross_hit_tokens", 0)
        observed.prefilled(tokens=num_tokens, own=int(own), cross=int(cross))


def _first_token_time(state: Any, stamps: Any) -> float:
    """When the first token was there, which the first output tells only of a stream.

    Without a stream it is the end of the prefill; on a decode worker the begin of decoding, one step before.
    """
    arrived: float = state.time_stats.first_token_time
    if getattr(state.obj, "stream", False) or stamps is None:
        return arrived
    stamp: float = stamps.forward_entry_time if is_decode_worker() else stamps.prefill_finished_time
    return stamp if state.time_stats.created_time < stamp < arrived else arrived


def _tokens(observed: Observed, state: Any, num_tokens: int) -> None:
    if num_tokens <= observed.num_tokens:
        return
    if observed.num_tokens == 0:
        observed.first_token(state.observed_last - state.time_stats.created_time)
    now = time.perf_counter()
    if num_tokens > observed.num_tokens:
        observed.further_tokens(num_tokens - observed.num_tokens, now - state.observed_last)
        state.observed_last = now


def _finished(manager: Any, observed: Observed, state: Any, recv_obj: Any, i: int) -> None:
    found = noted(state.customized_info_accumulated)
    if "handoff_tokens" in found:
        observer_of(manager).handoffs.add(
            tokens=found["handoff_tokens"], size=found["handoff_bytes"], seconds=found.get("handoff_seconds")
        )
    _end(observed, state, recv_obj.finished_reasons[i], recv_obj.retraction_counts[i])


def _end(observed: Observed, state: Any, reason: dict[str, Any], num_retractions: int = 0) -> None:
    seconds = state.time_stats.get_e2e_latency()
    if reason.get("type") != "abort":
        observed.ended("ok", seconds=seconds, retractions=num_retractions)
    elif reason.get("status_code") is None or state.abort_requested:
        observed.ended("aborted", retractions=num_retractions)
    else:
        observed.ended("error", retractions=num_retractions, reason=str(reason.get("message")))


def wrap_handle_abort_req(original: Callable[..., None]) -> Callable[..., None]:
    def _handle_abort_req(self: Any, recv_obj: Any) -> None:
        state = self.rid_to_state.get(recv_obj.rid)
        original(self, recv_obj)
        observed = getattr(state, "observed", None)
        if observed is not None and recv_obj.rid not in self.rid_to_state:
            _end(observed, state, recv_obj.finished_reason or {"type": "abort"})

    return _handle_abort_req


def wrap_remove_req_state(original: Callable[..., Any]) -> Callable[..., Any]:
    def _remove_req_state(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = original(self, *args, **kwargs)
        observed = getattr(state, "observed", None)
        # A finished one ends with its last output, which is counted a moment later.
        if observed is not None and not state.finished:
            error = sys.exception()
            if error is None:
                observed.withdrawn()  # its samples were sent as requests of their own
            elif state.abort_requested or isinstance(error, asyncio.CancelledError | GeneratorExit):
                observed.ended("aborted")
            else:
                observed.ended("error", reason=str(error))
        return state

    return _remove_req_state
