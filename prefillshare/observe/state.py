"""The document behind `GET /deployment/state`: everything a dashboard shows, built from what was observed.

Counters rise from the start of the process; times are seconds since 1970 or seconds; what nobody knows is None, not 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefillshare.observe.observer import Observer

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFacts:
    """What is known of a module beside its numbers."""

    name: str
    """Its name in "model"."""
    kind: str
    """base, lora or full."""
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
    topology: str,
    prefill_module: str,
    modules: Sequence[ModuleFacts],
    workers: Sequence[Mapping[str, Any]],
    repins: int = 0,
) -> dict[str, Any]:
    """The document; `workers` are as `worker_state` makes them."""
    return {
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


def _module_state(observer: Observer, facts: ModuleFacts) -> dict[str, Any]:
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
    role: str,
    module: str | None,
    url: str,
    pid: int | None,
    state: str,
    restarts: int | None,
    totals: Mapping[str, int | None],
    running: int | None,
    queued: int | None,
    kv: Mapping[str, int] | None,
    handoff: Mapping[str, float] | None,
) -> dict[str, Any]:
    """One worker of the document; `totals` has prompt_tokens, cached_tokens, generated_tokens and retractions."""
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
        **{key: totals[key] for key in ("prompt_tokens", "cached_tokens", "generated_tokens", "retractions")},
        "kv": kv,
        "handoff": handoff,
    }
