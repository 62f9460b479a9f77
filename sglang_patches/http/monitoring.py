"""``GET /deployment/state`` and ``GET /metrics`` of an engine.

Colocated, the state is that of the whole deployment; the router of a disaggregated one asks each worker for its own.
``/metrics`` is the same numbers in Prometheus' form, and SGLang's own metrics after them. Both want the API key.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefillshare.contract import DEPLOYMENT_VARIABLE, RESTARTS_VARIABLE, WORKER_VARIABLE
from prefillshare.observe.document import STATE_PATH, DeploymentState, EagerState, WorkerState
from prefillshare.observe.relabel import add_labels
from prefillshare.observe.state import ModuleFacts, deployment_state, worker_state
from prefillshare.wire.call_report import REPORT_KEY
from prefillshare.wire.text import as_json
from sglang_patches.disaggregation.role import is_behind_router, worker_role
from sglang_patches.http.model_names import get_tokenizer_manager, module_warnings, served_names

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sglang.srt.server_args import ServerArgs
    from starlette.requests import Request
    from starlette.responses import Response

    from sglang_patches.eager.answers import EndedAnswers
    from sglang_patches.engine.tokenizer_manager import TokenizerManager

ASK_TIMEOUT_S = 1.0
"""A scheduler in a long step answers only after it; until then its memory is unknown."""
METRICS_PATH = "/metrics"


def add_routes(app: FastAPI) -> None:
    """Serve both paths; SGLang's own /metrics is asked by ours."""
    from starlette.routing import Route

    kept = [route for route in app.router.routes if getattr(route, "path", None) not in (STATE_PATH, METRICS_PATH)]
    app.router.routes[:] = [Route(STATE_PATH, get_state), Route(METRICS_PATH, get_metrics), *kept]


async def get_state(request: Request) -> Response:
    """The contract's document."""
    from starlette.responses import Response

    return Response(as_json(await engine_state(get_tokenizer_manager())), media_type="application/json")


async def get_metrics(request: Request) -> Response:
    """Prometheus' text: ours, then SGLang's. For a router SGLang's only, with the labels of its query added."""
    # Late, like all of prometheus_client here: SGLang must first say in which folder the processes meet.
    from starlette.responses import Response

    from prefillshare.observe.exposition import CONTENT_TYPE, exposition

    manager = get_tokenizer_manager()
    labels = dict(request.query_params)
    if not _may_read(request, manager.server_args):
        return Response("this needs an API key: send it as Authorization: Bearer KEY\n", status_code=401)
    if labels:
        return Response(add_labels(_read_sglang_metrics().decode(), labels), headers={"Content-Type": CONTENT_TYPE})
    text = exposition(await engine_state(manager)) + _read_sglang_metrics()
    return Response(text, headers={"Content-Type": CONTENT_TYPE})


def _may_read(request: Request, server_args: ServerArgs) -> bool:
    """SGLang lets everybody read /metrics; module names and load are the key holders' business here."""
    keys = [key for key in (server_args.api_key, server_args.admin_api_key) if key]
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
    return not keys or any(hmac.compare_digest(given, key.encode()) for key in keys)


def _read_sglang_metrics() -> bytes:
    """What all processes of the engine wrote."""
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return bytes(generate_latest(registry))


async def engine_state(manager: TokenizerManager) -> DeploymentState:
    """The state of this engine, with what its scheduler says if it answers in time."""
    observer, told = manager.observer, await _ask_scheduler(manager)
    if told is not None:
        _tell_flushes(manager, told["flushes"])
        # A scheduler that is busy is believed to have what it told last.
        manager.prefillshare_eager = told["eager"]
        manager.prefillshare_held = told["held"]
    base, adapters = served_names(manager)
    role = worker_role()
    queued = _count_by_name(manager, _count_waiting(manager, (told or {}).get("queued") or {}))
    warnings = module_warnings()
    names = [base, *adapters] if role != "prefill" else list(dict.fromkeys((base, *observer.modules)))
    state = deployment_state(
        observer,
        name=os.getenv(DEPLOYMENT_VARIABLE) or base,
        topology="disaggregated" if is_behind_router() else "colocated",
        prefill_module=base,
        modules=[
            ModuleFacts(
                name=name,
                kind="lora" if name in adapters else "base",
                is_prefill_module=name == base and role != "decode",
                queued=queued.get(name, 0),
                warning=warnings.get(name),
            )
            for name in names
        ],
        workers=[_describe_worker(manager, told, sum(queued.values()))],
    )
    held: Mapping[str, int] = getattr(manager, "prefillshare_held", {})
    if manager.roster is not None:
        state["tenants"] = manager.roster.as_dict(held)
    elif held:
        # A worker of a pair knows no tenants: its router does.
        state["held"] = [{"owner": owner, "tokens": tokens} for owner, tokens in held.items()]
    return state


def _describe_worker(manager: TokenizerManager, told: Mapping[str, Any] | None, num_queued: int) -> WorkerState:
    args, observer, role = manager.server_args, manager.observer, worker_role()
    totals = observer.totals()
    return worker_state(
        id=os.getenv(WORKER_VARIABLE) or "engine",
        role="engine" if role == "null" else role,
        module=next(iter(served_names(manager)[1]), manager.served_model_name) if role == "decode" else None,
        url=f"http://{args.host}:{args.port}",
        pid=os.getpid(),
        state="up",
        restarts=int(os.getenv(RESTARTS_VARIABLE) or 0),
        totals=totals.worker_counters(),
        running=None if told is None else max(totals.num_running - num_queued, 0),
        queued=None if told is None else num_queued,
        kv=None if told is None else told["kv"],
        handoff=None if role == "null" else observer.handoffs.as_dict(),
        store=None if told is None else told["store"],
        push=None if told is None else told["push"],
        eager=getattr(manager, "prefillshare_eager", None),
        admission=None if manager.gate is None else manager.gate.as_dict(),
    )


def _count_waiting(manager: TokenizerManager, queued: Mapping[str, int]) -> Counter[str]:
    """Waiting requests by adapter id: those at the scheduler, and those that it has not been sent."""
    return Counter(queued) + (Counter() if manager.gate is None else manager.gate.count_by_adapter())


def _add_own(ended: EndedAnswers | None, num_open: int, told: EagerState | None) -> EagerState | None:
    """What this process gave up before the scheduler heard of it is given up, too; what it has yet to make, waits."""
    if told is None or ended is None:
        return told
    return {**told, "dropped": told["dropped"] + ended.num_left_out, "waiting": told["waiting"] + num_open}


async def _ask_scheduler(manager: TokenizerManager) -> Mapping[str, Any] | None:
    """What the scheduler says of itself, None when it is busy; one question at a time is on its way."""
    asked = getattr(manager, "prefillshare_asked", None)
    # The scheduler answers in turn: a second question would only wait behind the first.
    if asked is None or asked.done():
        asked = manager.prefillshare_asked = asyncio.ensure_future(_ask(manager))
    done, _ = await asyncio.wait((asked,), timeout=ASK_TIMEOUT_S)
    if not done or asked.exception() is not None:
        return None
    told: Mapping[str, Any] | None = asked.result()
    return told


async def _ask(manager: TokenizerManager) -> Mapping[str, Any] | None:
    ended = manager.ended_answers
    # Read before: a job that is made in the meantime is the scheduler's by the time it answers, and counts once more.
    num_open = 0 if ended is None else ended.num_open
    (state, *_) = await manager.get_internal_state()
    told = state.get(REPORT_KEY)
    return told and {**told, "eager": _add_own(ended, num_open, told["eager"])}


def _count_by_name(manager: TokenizerManager, queued: Mapping[str, int]) -> dict[str, int]:
    """Waiting requests by module name; the scheduler knows adapters by id."""
    adapters = manager.lora_registry.get_all_adapters()
    names = {adapter.lora_id: adapter.lora_name for adapter in adapters.values()}
    found: dict[str, int] = {}
    for key, count in queued.items():
        name = names.get(key, key) or manager.served_model_name
        found[name] = found.get(name, 0) + count
    return found


def _tell_flushes(manager: TokenizerManager, count: int) -> None:
    known = getattr(manager, "prefillshare_flushes", 0)
    if count > known:
        manager.observer.events.tell("flush", "engine", "the prefix cache was emptied")
    manager.prefillshare_flushes = count
