"""Builds the document of `GET /deployment/state` from what was observed."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefillshare.observe.document import (
    SCHEMA,
    AdmissionState,
    DeploymentState,
    EagerState,
    HandoffState,
    KvState,
    ModuleKind,
    ModuleState,
    PushState,
    Role,
    StoreState,
    Topology,
    WorkerCounters,
    WorkerPhase,
    WorkerState,
)
from prefillshare.observe.observer import Observer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFacts:
    """What is known of a module beside its numbers."""

    name: str
    """Its name in "model"."""
    kind: ModuleKind
    """What it is made of."""
    is_prefill_module: bool
    """Whether it is the prefill module."""
    queued: int = 0
    """Requests that wait."""
    warning: str | None = None
    """Why its answers are not to be trusted; None when there is nothing to say."""


def deployment_state(
    observer: Observer,
    *,
    name: str,
    topology: Topology,
    prefill_module: str,
    modules: Sequence[ModuleFacts],
    workers: Sequence[WorkerState],
    repins: int = 0,
) -> DeploymentState:
    """Return the document; `workers` are as `worker_state` makes them."""
    choices = observer.choices.as_dict()
    state: DeploymentState = {
        "schema": SCHEMA,
        "time": observer.clock(),
        "started": observer.started,
        "name": name,
        "topology": topology,
        "prefill_module": prefill_module,
        "modules": [_module_state(observer, facts) for facts in modules],
        "workers": list(workers),
        "sessions": {"total": len(observer.sessions), "items": observer.sessions.as_list()},
        "events": observer.events.as_list(),
        "repins": repins,
    }
    if choices is not None:
        state["choices"] = choices
    return state


def _module_state(observer: Observer, facts: ModuleFacts) -> ModuleState:
    stats = observer.stats_of(facts.name)
    return {
        "name": facts.name,
        "kind": facts.kind,
        "is_prefill_module": facts.is_prefill_module,
        "warning": facts.warning,
        **stats.counters(),
        "running": max(stats.num_running - facts.queued, 0),
        "queued": facts.queued,
        "latency": stats.latency(),
        "shared_prefix": stats.shared_prefix.as_dict(),
    }


def worker_state(
    *,
    id: str,
    role: Role,
    module: str | None,
    url: str,
    pid: int | None,
    state: WorkerPhase,
    restarts: int | None,
    totals: WorkerCounters,
    running: int | None,
    queued: int | None,
    kv: KvState | None,
    handoff: HandoffState | None,
    store: StoreState | None = None,
    push: PushState | None = None,
    eager: EagerState | None = None,
    admission: AdmissionState | None = None,
) -> WorkerState:
    """Return one worker of the document."""
    return {
        "id": id,
        "role": role,
        "module": module,
        "url": url,
        "pid": pid,
        "state": state,
        "restarts": restarts,
        "running": running,
        "queued": queued,
        **totals,
        "kv": kv,
        "handoff": handoff,
        "store": store,
        "push": push,
        "eager": eager,
        "admission": admission,
    }
