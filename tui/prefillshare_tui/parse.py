"""JSON of `GET /deployment/state` into a Snapshot.

Fields that are missing, null or of a wrong type become None: a dashboard shows what it can. Only a reply that is
something else altogether is an error.
"""

import math
from collections.abc import Mapping
from typing import Any

import orjson

from prefillshare_tui.errors import ForeignServerError
from prefillshare_tui.snapshot import (
    LATENCIES,
    Admission,
    Divergence,
    Eager,
    EagerJobs,
    Event,
    Handoff,
    Histogram,
    Kv,
    Module,
    Push,
    Refusals,
    Session,
    Snapshot,
    Store,
    Tenant,
    Tenants,
    Worker,
)

SCHEMA = 1

_MODULE = (
    "requests errors refused aborted running queued prompt_tokens own_hit_tokens cross_hit_tokens avoidable_tokens "
    "generated_tokens"
).split()
_WORKER = "pid restarts running queued prompt_tokens cached_tokens generated_tokens retractions".split()
_KV = "capacity_tokens shared_tokens private_tokens free_tokens evictable_tokens pinned_tokens token_bytes".split()
_HANDOFF = "tokens bytes seconds calls".split()
_EAGER = "tokens hit_tokens dropped waiting".split()
_ADMISSION = "waiting held_back overdue sessions held_tokens".split()
_PUSH = "pushed_tokens push_hit_tokens push_wasted_tokens dropped_pushes".split()
_STORE = (
    "store_hit_tokens host_hit_tokens written_pages refused_pages damaged_pages capacity_bytes used_bytes "
    "used_disk_bytes".split()
)
_TENANT = "calls running prompt_tokens cached_tokens generated_tokens kv_tokens".split()
_REFUSALS = "rate tokens concurrent module door".split()
_EAGER_JOBS = "done dropped cancelled failed pushed waiting".split()
_SESSION = (
    "num_calls first_seen last_seen running context_tokens prompt_tokens own_hit_tokens cross_hit_tokens repins".split()
)

Json = Mapping[str, Any]


def parse(reply: bytes, url: str) -> Snapshot:
    """Return the snapshot in `reply`.

    Raises: ForeignServerError when it is not one, or of another schema.
    """
    try:
        state = orjson.loads(reply)
    except orjson.JSONDecodeError:
        state = None
    if not isinstance(state, dict) or "schema" not in state:
        raise ForeignServerError(f"{url} answers, but not as a PrefillShare deployment: correct --url")
    if state["schema"] != SCHEMA:
        raise ForeignServerError(
            f"{url} speaks schema {state['schema']!r} and this dashboard schema {SCHEMA}: "
            "install the same version of prefillshare on both sides"
        )
    if (time := _number(state.get("time"))) is None:
        raise ForeignServerError(f"{url} does not tell its time: install the same version of prefillshare there")
    return _snapshot(state, time)


def _snapshot(state: Json, time: float) -> Snapshot:
    sessions = state.get("sessions")
    sessions = sessions if isinstance(sessions, dict) else {}
    jobs = state.get("eager_jobs")
    return Snapshot(
        time=time,
        started=_number(state.get("started")),
        name=_text(state.get("name")),
        topology=_text(state.get("topology")),
        prefill_module=_text(state.get("prefill_module")),
        modules=tuple(map(_module, _objects(state.get("modules")))),
        workers=tuple(map(_worker, _objects(state.get("workers")))),
        sessions=tuple(map(_session, _objects(sessions.get("items")))),
        num_sessions=_number(sessions.get("total")),
        events=tuple(map(_event, _objects(state.get("events")))),
        repins=_number(state.get("repins")),
        forwarded=_number(state.get("forwarded")),
        eager_jobs=EagerJobs(**_numbers(jobs, _EAGER_JOBS)) if isinstance(jobs, dict) else None,
        tenants=_tenants(state.get("tenants")),
    )


def _tenants(entry: object) -> Tenants | None:
    if not isinstance(entry, dict):
        return None
    items = tuple(map(_tenant, _objects(entry.get("items"))))
    return Tenants(items=items, problem=_text(entry.get("problem")), **_numbers(entry, ("unknown_keys",)))


def _tenant(entry: Json) -> Tenant:
    refused = entry.get("refused")
    return Tenant(
        name=_text(entry.get("name")),
        is_shared=entry.get("is_shared") is True,
        refused=Refusals(**_numbers(refused if isinstance(refused, dict) else {}, _REFUSALS)),
        **_numbers(entry, _TENANT),
    )


def _module(entry: Json) -> Module:
    latency = entry.get("latency")
    latency = latency if isinstance(latency, dict) else {}
    histograms = {name: _histogram(latency.get(name)) for name in LATENCIES}
    return Module(
        name=_text(entry.get("name")),
        kind=_text(entry.get("kind")),
        is_prefill_module=entry.get("is_prefill_module") is True,
        warning=_text(entry.get("warning")),
        latency={name: histogram for name, histogram in histograms.items() if histogram},
        **_numbers(entry, _MODULE),
    )


def _worker(entry: Json) -> Worker:
    kv, handoff, eager, push, admission = (entry.get(part) for part in ("kv", "handoff", "eager", "push", "admission"))
    module = entry.get("module")
    return Worker(
        id=_text(entry.get("id")),
        role=_text(entry.get("role")),
        module=module if isinstance(module, str) else None,
        url=_text(entry.get("url")),
        state=_text(entry.get("state")),
        kv=Kv(**_numbers(kv, _KV)) if isinstance(kv, dict) else None,
        handoff=Handoff(**_numbers(handoff, _HANDOFF)) if isinstance(handoff, dict) else None,
        eager=Eager(**_numbers(eager, _EAGER)) if isinstance(eager, dict) else None,
        admission=Admission(**_numbers(admission, _ADMISSION)) if isinstance(admission, dict) else None,
        push=Push(**_numbers(push, _PUSH)) if isinstance(push, dict) else None,
        store=_store(entry.get("store")),
        **_numbers(entry, _WORKER),
    )


def _store(entry: object) -> Store | None:
    if not isinstance(entry, dict):
        return None
    why_off = None
    if entry.get("is_attached") is not True:
        why_off = _text(entry.get("why_off")) or "the worker's log says why"
    return Store(why_off=why_off, **_numbers(entry, _STORE))


def _session(entry: Json) -> Session:
    parted = entry.get("divergence")
    return Session(
        id=_text(entry.get("id")),
        is_explicit=entry.get("is_explicit") is True,
        modules=_names(entry.get("modules")),
        divergence=_divergence(parted) if isinstance(parted, dict) else None,
        **_numbers(entry, _SESSION),
    )


def _divergence(entry: Json) -> Divergence:
    return Divergence(modules=_names(entry.get("modules")), **_numbers(entry, ("token", "fraction")))


def _event(entry: Json) -> Event:
    return Event(
        id=int(_number(entry.get("id")) or 0),
        time=_number(entry.get("time")),
        kind=_text(entry.get("kind")),
        subject=_text(entry.get("subject")),
        message=_text(entry.get("message")),
    )


def _histogram(entry: object) -> Histogram | None:
    if not isinstance(entry, dict):
        return None
    bounds, counts = entry.get("le"), entry.get("counts")
    if not isinstance(bounds, list) or not isinstance(counts, list) or len(bounds) != len(counts) or not bounds:
        return None
    edges = tuple(math.inf if bound is None else _number(bound) for bound in bounds)
    values = tuple(map(_number, counts))
    if None in edges or None in values:
        return None
    return Histogram(edges, values, _number(entry.get("sum")) or 0.0)  # type: ignore[arg-type]


def _objects(value: object) -> list[Json]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _numbers(entry: Json, names: "tuple[str, ...] | list[str]") -> dict[str, Any]:
    return {name: _number(entry.get(name)) for name in names}


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    # Names come from clients: what is no letter could move the cursor of whoever watches.
    return value if value.isprintable() else "".join(char if char.isprintable() else "?" for char in value)


def _names(value: object) -> tuple[str, ...]:
    return tuple(_text(name) for name in value) if isinstance(value, list) else ()
