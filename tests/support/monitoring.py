"""What a deployment tells of itself, read for tests: states compared, and Prometheus' text taken apart strictly."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

DOCS = Path(__file__).parents[2] / "docs"
GRAFANA = DOCS.parent / "deploy" / "grafana"
METRIC = re.compile(r"prefillshare_\w+|sglang:\w+")
_DOCUMENTED = re.compile(r"^\| `prefillshare_.*?\|", re.MULTILINE)
_OF_A_STORE = re.compile("prefillshare_(store|host)_")
COUNTERS = (
    "requests",
    "errors",
    "aborted",
    "prompt_tokens",
    "own_hit_tokens",
    "cross_hit_tokens",
    "generated_tokens",
)
"""Of a module, as the scripted sessions count them."""
SAMPLES = {
    "requests": "prefillshare_requests_total",
    "errors": "prefillshare_request_errors_total",
    "refused": "prefillshare_request_refusals_total",
    "aborted": "prefillshare_request_aborts_total",
    "prompt_tokens": "prefillshare_prompt_tokens_total",
    "own_hit_tokens": "prefillshare_own_hit_tokens_total",
    "cross_hit_tokens": "prefillshare_cross_module_hit_tokens_total",
    "generated_tokens": "prefillshare_generated_tokens_total",
}
"""The same numbers' names in Prometheus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a scripted session, with what it must add to its module's counters."""

    module: str
    """Decode module that is asked."""
    prompt: tuple[int, ...]
    """Token ids."""
    own: int
    """Cached tokens that the module itself had prefilled."""
    cross: int
    """Cached tokens that others had prefilled."""


STATE_WITHIN_S = 300.0


def read_state(
    http: httpx.Client, headers: Mapping[str, str] | None = None, *, has_router: bool = True
) -> dict[str, Any]:
    """The state of a deployment at rest, to which every worker in service has just answered.

    A call is answered before its prefill leg has reported, and a router gives what a worker told last, or nothing yet,
    where the worker is too busy to answer in time. The workers answer before the router reads its own counters: who
    waits for one of these finds what the workers did for it in the state after.
    """
    deadline = time.monotonic() + STATE_WITHIN_S
    while True:
        calls = _read(http, "/router/state", headers)["workers"] if has_router else []
        found = _read(http, "/deployment/state", headers)
        # An engine without a router counts a call when it is over, and tells both in one document.
        legs = {worker["id"]: worker["running"] for worker in calls or found["workers"]}
        silent = [worker["id"] for worker in found["workers"] if worker["state"] == "up" and worker["running"] is None]
        if not silent and not any(legs.values()):
            return found
        assert time.monotonic() < deadline, f"{silent} told nothing for {STATE_WITHIN_S:.0f} s; calls: {legs}"
        time.sleep(0.02)


def _read(http: httpx.Client, path: str, headers: Mapping[str, str] | None) -> dict[str, Any]:
    reply = http.get(path, headers=headers)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def module_of(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One module of a state."""
    return next(module for module in state["modules"] if module["name"] == name)


def worker_of(state: Mapping[str, Any], worker_id: str) -> Mapping[str, Any]:
    """One worker of a state."""
    return next(worker for worker in state["workers"] if worker["id"] == worker_id)


def counted(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """By module, what its counters rose by; modules that nobody called are left out."""
    found = {}
    for module in after["modules"]:
        earlier = module_of(before, module["name"])
        rise = tuple(module[name] - earlier[name] for name in COUNTERS)
        if any(rise):
            found[module["name"]] = rise
    return found


def observed(before: Mapping[str, Any], after: Mapping[str, Any], module: str, latency: str) -> int:
    """How many values a latency histogram of `module` got."""
    first, last = (module_of(state, module)["latency"][latency] for state in (before, after))
    count: int = last["count"] - first["count"]
    assert count == sum(last["counts"]) - sum(first["counts"])
    return count


def scraped(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and sorted labels.

    Raises: AssertionError when a family stands in two places or a sample twice, which Prometheus would refuse.
    """
    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads)), "a metric family stands in two places"
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for name, labels, value in _samples(text):
        assert (name, labels) not in found, f"{name}{labels} stands there twice"
        found[name, labels] = value
    return found


def _samples(text: str) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, tuple(sorted(sample.labels.items())), sample.value


def documented_metrics(*, with_store: bool) -> set[str]:
    """The names that docs/monitoring.md lists: those that only a store brings, or all others."""
    rows = _DOCUMENTED.findall((DOCS / "monitoring.md").read_text())
    names = {name for row in rows for name in METRIC.findall(row)}
    return {name for name in names if bool(_OF_A_STORE.match(name)) == with_store}


def names_in(text: str) -> set[str]:
    """The names of all samples."""
    return {name for name, _ in scraped(text)}
