"""The state of a deployment in Prometheus' text form.

Everything is read out of the document that `/deployment/state` serves, so the two cannot disagree. What is unknown
(None) has no sample.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from prefillshare.observe.document import (
    EAGER_OUTCOMES,
    MOVE_OUTCOMES,
    REFUSAL_REASONS,
    ChoicesState,
    DeploymentState,
    EagerJobsState,
    HistogramState,
    KvState,
    ModuleState,
    RoleMovesState,
    TenantsState,
    WorkerState,
)
from prefillshare.wire.text import make_writable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WORKER_LABELS = ("worker", "role", "module")

_MODULE_COUNTERS = {
    "requests": ("requests", "Requests that ended; each prompt of a batch is one"),
    "errors": ("request_errors", "Requests that failed"),
    "refused": ("request_refusals", "Requests that the caller has to change, or to repeat later (4xx)"),
    "aborted": ("request_aborts", "Requests that the client left or had aborted"),
    "prompt_tokens": ("prompt_tokens", "Prompt tokens of prefilled requests"),
    "own_hit_tokens": ("own_hit_tokens", "Cached prompt tokens that the module's own requests had prefilled"),
    "cross_hit_tokens": ("cross_module_hit_tokens", "Cached prompt tokens first prefilled for another decode module"),
    "avoidable_tokens": (
        "avoidable_tokens",
        "Prompt tokens that a module with share = false computed although the shared cache had them",
    ),
    "generated_tokens": ("generated_tokens", "Generated tokens"),
}
_MODULE_GAUGES = {
    "running": ("requests_running", "Requests that are being computed"),
    "queued": ("requests_queued", "Requests that wait"),
}
_LATENCIES: Mapping[Literal["ttft", "itl", "e2e", "queue"], tuple[str, str]] = {
    "ttft": ("time_to_first_token_seconds", "From a request's arrival to its first token"),
    "itl": ("inter_token_latency_seconds", "From one generated token to the next"),
    "e2e": ("request_duration_seconds", "From a request's arrival to its end, good ones only"),
    "queue": ("queue_time_seconds", "Waiting before a request was computed, at the router before a worker was free"),
}
_WORKER_COUNTERS = {
    "restarts": ("worker_restarts", "Times that the process was started again"),
    "prompt_tokens": ("worker_prompt_tokens", "Prompt tokens of prefilled requests of this worker"),
    "cached_tokens": ("worker_cached_tokens", "Of these, tokens that the worker held already"),
    "generated_tokens": ("worker_generated_tokens", "Tokens that this worker generated"),
    "retractions": ("retractions", "Times that a running request lost its KV for want of memory"),
}
_WORKER_GAUGES = {
    "running": ("worker_requests_running", "Requests that the worker computes"),
    "queued": ("worker_requests_queued", "Requests that wait at the worker"),
}
_HANDOFF_COUNTERS = {
    "calls": ("handoffs", "Hand-offs of KV from prefill to decode workers, counted at both ends"),
    "tokens": ("handoff_tokens", "Tokens whose KV was handed over, counted at both ends"),
    "bytes": ("handoff_bytes", "Bytes of KV handed over, counted at both ends"),
    "seconds": ("handoff_seconds", "Seconds from the end of a prefill to the end of its hand-off, at prefill workers"),
    "memory_calls": ("memory_handoffs", "Hand-offs right into the memory of the decode worker, at prefill workers"),
    "memory_bytes": ("memory_handoff_bytes", "Bytes of KV that these wrote, at prefill workers"),
}
_STORE_COUNTERS = {
    "host_hit_tokens": (
        "host_hit_tokens",
        "Cached prompt tokens that came from the worker's tier in the host's memory",
    ),
    "store_hit_tokens": ("store_hit_tokens", "Cached prompt tokens that came from the deployment's store"),
    "fetched_pages": ("store_fetched_pages", "Pages that came from stores of other hosts, for calls of the worker"),
    "declined_loads": ("store_declined_loads", "Loads from the store that prefilling was expected to beat"),
    "written_pages": ("store_written_pages", "Pages that the worker wrote into the store"),
    "evicted_pages": ("store_evicted_pages", "Pages that gave their room to those that the worker wrote"),
    "refused_pages": ("store_refused_pages", "Pages that the store could not take"),
    "damaged_pages": ("store_damaged_pages", "Pages whose checksum did not fit; they were computed again"),
    "failures": ("store_failures", "Uses of the store that failed"),
}
_STORE_GAUGES = {
    "host_capacity_tokens": ("host_capacity_tokens", "Size of the worker's tier in the host's memory"),
    "host_used_tokens": ("host_used_tokens", "KV in the worker's tier in the host's memory"),
    "is_attached": ("store_attached", "Whether the worker has the deployment's store"),
    "capacity_bytes": ("store_capacity_bytes", "Size of the store that the workers of the deployment share"),
    "used_bytes": ("store_used_bytes", "What of the store holds pages"),
    "used_disk_bytes": ("store_used_disk_bytes", "Of that, what lies on disk"),
    "num_pages": ("store_pages", "Pages in the store that the workers of the deployment share"),
}
_PUSH_COUNTERS = {
    "pushed_tokens": ("pushed_tokens", "Tokens whose KV a decode worker was handed before any call asked for it"),
    "push_hit_tokens": ("push_hit_tokens", "Of the pushed tokens, those that a call then need not be handed"),
    "push_wasted_tokens": (
        "push_wasted_tokens",
        "Of the pushed tokens, those whose room others got before a call came",
    ),
    "dropped_pushes": ("dropped_pushes", "Pushes that a decode worker ended because calls needed the room"),
}
_EAGER_COUNTERS = {
    "tokens": ("eager_tokens", "Tokens computed before anybody asked: what prompts begin with that follow answers"),
    "hit_tokens": ("eager_hit_tokens", "Of these, tokens that a call has hit since, each counted once"),
    "dropped": ("eager_dropped", "Answers that were to be computed ahead and were given up"),
    "loaded_tokens": ("eager_loaded_tokens", "Tokens that came from the store so that they need not be computed ahead"),
}
_EAGER_GAUGES = {"waiting": ("eager_waiting", "Answers that are still to be computed ahead")}
_ADMISSION_COUNTERS = {
    "held_back": ("held_back", "Calls that had to wait until there was memory for their session"),
    "overdue": ("held_back_overdue", "Of these, calls that were taken because they had waited for the longest time"),
}
_ADMISSION_GAUGES = {
    "waiting": ("waiting_for_memory", "Calls that wait until there is memory for their session"),
    "sessions": ("sessions_under_way", "Sessions that are served now, or whose context is kept for their next call"),
    "held_tokens": ("held_tokens", "KV that these sessions and calls take together"),
}
_TENANT_COUNTERS = {
    "calls": ("tenant_calls", "Calls of a tenant that began; refused ones are not among them"),
    "prompt_tokens": ("tenant_prompt_tokens", "Prompt tokens of a tenant's prefilled calls"),
    "cached_tokens": ("tenant_cached_tokens", "Of these, tokens that were cached"),
    "generated_tokens": ("tenant_generated_tokens", "Tokens of answers to a tenant"),
}
_TENANT_GAUGES = {
    "running": ("tenant_calls_running", "Calls of a tenant that are being answered"),
    "kv_tokens": ("tenant_kv_tokens", "KV of a tenant in the prefix trees of all workers"),
}
_KV_PARTS = {
    "capacity": "KV pool of the worker",
    "shared": "KV in the shared prefix tree, in use or evictable",
    "private": "KV of running requests beyond the tree",
    "used": "KV in the tree or of running requests",
    "evictable": "KV in the tree that no running request uses",
    "pinned": "KV in the tree that callers want to have kept",
    "free": "KV that is not used",
}


_Sample = tuple[Mapping[str, Any], tuple[str, ...]]
"""Numbers by name, and the values of the labels."""


def exposition(state: DeploymentState) -> bytes:
    """Return Prometheus' text of `state`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_State(state))
    try:
        return bytes(generate_latest(registry))
    except UnicodeEncodeError:
        return exposition(cast(DeploymentState, make_writable(state)))


class _State:
    """What `prometheus_client` calls a collector."""

    def __init__(self, state: DeploymentState) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Nothing is known beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        state = self._state
        yield from _of_deployment(state)
        yield from _of_modules(state["modules"])
        yield from _of_workers(state["workers"])


def _of_deployment(state: DeploymentState) -> Iterator[Metric]:
    about = GaugeMetricFamily(
        "prefillshare_deployment_info", "What this is", labels=("deployment", "topology", "prefill_module")
    )
    about.add_metric((state["name"], state["topology"], state["prefill_module"]), 1)
    yield about
    yield GaugeMetricFamily("prefillshare_start_time_seconds", "Start of the process", value=state["started"])
    yield GaugeMetricFamily("prefillshare_sessions", "Sessions that are remembered", value=state["sessions"]["total"])
    yield CounterMetricFamily(
        "prefillshare_repins", "Times that a session moved to another prefill worker", value=state["repins"]
    )
    # Only a router counts these.
    if "refusals" in state:
        yield CounterMetricFamily("prefillshare_refusals", "Calls answered 429", value=state["refusals"])
    if "retries" in state:
        yield CounterMetricFamily("prefillshare_retries", "Further tries after a worker failed", value=state["retries"])
    if "forwarded" in state:
        yield CounterMetricFamily(
            "prefillshare_forwarded", "Calls passed on to the router of their session", value=state["forwarded"]
        )
    if "eager_jobs" in state:
        yield from _of_eager_jobs(state["eager_jobs"])
    if "role_moves" in state:
        yield _of_role_moves(state["role_moves"])
    if "choices" in state:
        yield from _of_choices(state["choices"])
    if "tenants" in state:
        yield from _of_tenants(state["tenants"])


def _of_eager_jobs(jobs: EagerJobsState) -> Iterator[Metric]:
    ended = CounterMetricFamily("prefillshare_eager_jobs", "Answers whose KV was to be made", labels=("outcome",))
    numbers = cast(Mapping[str, int], jobs)  # a TypedDict takes no names from a loop
    for outcome in EAGER_OUTCOMES:
        ended.add_metric((outcome,), numbers[outcome])
    yield ended
    yield CounterMetricFamily(
        "prefillshare_eager_pushes", "Of those done, pushed to the module expected next", value=jobs["pushed"]
    )
    yield GaugeMetricFamily(
        "prefillshare_eager_jobs_waiting", "Answers whose KV is still to be made", value=jobs["waiting"]
    )


def _of_choices(choices: ChoicesState) -> Iterator[Metric]:
    chosen = CounterMetricFamily(
        "prefillshare_choices", "Calls for which a classifier chose the module", labels=("alias", "module")
    )
    for item in choices["items"]:
        chosen.add_metric((item["alias"], item["module"]), item["calls"])
    yield chosen
    waited = HistogramMetricFamily(
        "prefillshare_choice_seconds", "What a call waited for the prefill module's look at its prompt"
    )
    waited.add_metric((), _buckets(choices["seconds"]), choices["seconds"]["sum"])
    yield waited


def _of_role_moves(moves: RoleMovesState) -> Metric:
    numbers = cast(Mapping[str, int], moves)
    told = CounterMetricFamily("prefillshare_role_moves", "Workers that were to change their role", labels=("outcome",))
    for outcome in MOVE_OUTCOMES:
        told.add_metric((outcome,), numbers[outcome])
    return told


def _of_tenants(tenants: TenantsState) -> Iterator[Metric]:
    labelled: list[_Sample] = [(tenant, (tenant["name"],)) for tenant in tenants["items"]]
    yield from _numbers(CounterMetricFamily, _TENANT_COUNTERS, ("tenant",), labelled)
    yield from _numbers(GaugeMetricFamily, _TENANT_GAUGES, ("tenant",), labelled)
    refused = CounterMetricFamily(
        "prefillshare_tenant_refusals", "Calls of a tenant that were refused, by reason", labels=("tenant", "reason")
    )
    for tenant in tenants["items"]:
        numbers = cast(Mapping[str, int], tenant["refused"])
        for reason in REFUSAL_REASONS:
            refused.add_metric((tenant["name"], reason), numbers[reason])
    yield refused
    yield CounterMetricFamily(
        "prefillshare_unknown_keys", "Requests with a key of nobody's, or none", value=tenants["unknown_keys"]
    )
    yield GaugeMetricFamily(
        "prefillshare_tenants_file_usable",
        "Whether the tenants' file as it is now could be read; where not, the tenants of before go on",
        value=int(tenants["problem"] is None),
    )


def _of_modules(modules: Sequence[ModuleState]) -> Iterator[Metric]:
    labelled: list[_Sample] = [(module, (module["name"],)) for module in modules]
    yield from _numbers(CounterMetricFamily, _MODULE_COUNTERS, ("module",), labelled)
    cached: list[_Sample] = [
        ({"cached": module["own_hit_tokens"] + module["cross_hit_tokens"]}, (module["name"],)) for module in modules
    ]
    cached_help = "Prompt tokens that were not computed again, own and cross-module"
    yield from _numbers(CounterMetricFamily, {"cached": ("cached_tokens", cached_help)}, ("module",), cached)
    yield from _numbers(GaugeMetricFamily, _MODULE_GAUGES, ("module",), labelled)
    for key, (name, help_text) in _LATENCIES.items():
        yield _histogram(name, help_text, [(module["name"], module["latency"][key]) for module in modules])
    yield _histogram(
        "session_shared_prefix_ratio",
        "Share of a prompt up to which it equals a prompt of another module in its session; near 0, nothing is shared",
        [(module["name"], module["shared_prefix"]) for module in modules],
    )


def _of_workers(workers: Sequence[WorkerState]) -> Iterator[Metric]:
    labels = [(worker["id"], worker["role"], worker["module"] or "") for worker in workers]
    labelled: list[_Sample] = list(zip(workers, labels, strict=True))
    yield from _numbers(CounterMetricFamily, _WORKER_COUNTERS, WORKER_LABELS, labelled)
    yield from _numbers(GaugeMetricFamily, _WORKER_GAUGES, WORKER_LABELS, labelled)
    handoffs: list[_Sample] = [(numbers["handoff"], names) for numbers, names in labelled if numbers["handoff"]]
    yield from _numbers(CounterMetricFamily, _HANDOFF_COUNTERS, WORKER_LABELS, handoffs)
    stores: list[_Sample] = [(numbers["store"], names) for numbers, names in labelled if numbers["store"]]
    yield from _numbers(CounterMetricFamily, _STORE_COUNTERS, WORKER_LABELS, stores)
    yield from _numbers(GaugeMetricFamily, _STORE_GAUGES, WORKER_LABELS, stores)
    pushes: list[_Sample] = [(numbers["push"], names) for numbers, names in labelled if numbers["push"]]
    yield from _numbers(CounterMetricFamily, _PUSH_COUNTERS, WORKER_LABELS, pushes)
    eager: list[_Sample] = [(numbers["eager"], names) for numbers, names in labelled if numbers["eager"]]
    yield from _numbers(CounterMetricFamily, _EAGER_COUNTERS, WORKER_LABELS, eager)
    yield from _numbers(GaugeMetricFamily, _EAGER_GAUGES, WORKER_LABELS, eager)
    admission: list[_Sample] = [(numbers["admission"], names) for numbers, names in labelled if numbers["admission"]]
    yield from _numbers(CounterMetricFamily, _ADMISSION_COUNTERS, WORKER_LABELS, admission)
    yield from _numbers(GaugeMetricFamily, _ADMISSION_GAUGES, WORKER_LABELS, admission)
    ups: list[_Sample] = [({"up": int(numbers["state"] == "up")}, names) for numbers, names in labelled]
    yield from _numbers(GaugeMetricFamily, {"up": ("worker_up", "Whether the worker serves")}, WORKER_LABELS, ups)
    yield from _memory([(worker["kv"], names) for worker, names in zip(workers, labels, strict=True) if worker["kv"]])


def _numbers(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    wanted: Mapping[str, tuple[str, str]],
    label_names: Sequence[str],
    samples: Sequence[_Sample],
) -> Iterator[Metric]:
    for key, (name, help_text) in wanted.items():
        metric = family(f"prefillshare_{name}", help_text, labels=label_names)
        for numbers, labels in samples:
            if numbers.get(key) is not None:
                metric.add_metric(labels, numbers[key])
        yield metric


def _memory(samples: Sequence[tuple[KvState, tuple[str, ...]]]) -> Iterator[Metric]:
    for part, help_text in _KV_PARTS.items():
        tokens = GaugeMetricFamily(f"prefillshare_kv_{part}_tokens", help_text, labels=WORKER_LABELS)
        size = GaugeMetricFamily(f"prefillshare_kv_{part}_bytes", help_text, labels=WORKER_LABELS)
        for kv, labels in samples:
            parts: Mapping[str, Any] = {**kv, "used_tokens": kv["shared_tokens"] + kv["private_tokens"]}
            count = parts[f"{part}_tokens"]
            tokens.add_metric(labels, count)
            size.add_metric(labels, count * kv["token_bytes"])
        yield tokens
        yield size


def _histogram(name: str, help_text: str, samples: Sequence[tuple[str, HistogramState]]) -> Metric:
    metric = HistogramMetricFamily(f"prefillshare_{name}", help_text, labels=("module",))
    for module, histogram in samples:
        metric.add_metric((module,), _buckets(histogram), histogram["sum"])
    return metric


def _buckets(histogram: HistogramState) -> list[tuple[str, int]]:
    """Return how many values are at most each bound."""
    total, buckets = 0, []
    for bound, count in zip(histogram["le"], histogram["counts"], strict=True):
        total += count
        buckets.append(("+Inf" if bound is None else str(bound), total))
    return buckets
