"""A deployment in a few lines of text, for `prefillshare top --once` and the clipboard; and as values for scripts."""

from typing import Any

from prefillshare_tui import words
from prefillshare_tui.parts import as_text
from prefillshare_tui.snapshot import LATENCIES
from prefillshare_tui.tables.workers import state_parts, used_ratio
from prefillshare_tui.totals import quantile
from prefillshare_tui.view import Activity, View

_QUANTILES = (0.5, 0.95, 0.99)
_TITLES = {"ttft": "TTFT", "itl": "ITL", "e2e": "end to end", "queue": "queue"}


def summary_text(view: View) -> str:
    """Return the lines."""
    snapshot = view.snapshot
    lines = [
        f"{snapshot.name or 'deployment'} ({snapshot.topology or 'unknown topology'}) over {snapshot.prefill_module}, "
        f"figures of {words.span(view.total.seconds)}",
        _hits(view.total),
        *(_latency(view.total, name) for name in LATENCIES if name in view.total.grown.histograms),
        "",
        "module          calls  failed  run queue    prompt       own     cross    missed  saved  TTFT p50  TTFT p95",
        *(_module(view, index) for index in range(len(snapshot.modules))),
        *(f"! {module.name}: {module.warning}" for module in snapshot.modules if module.warning),
        "",
        "worker          state     run queue  KV used  restarts",
        *(_worker(view, index) for index in range(len(snapshot.workers))),
        "",
        *_tenants(view),
        f"sessions {words.exact(snapshot.num_sessions)}, re-pins {words.exact(snapshot.repins)}, "
        f"events {len(snapshot.events)}",
    ]
    return "\n".join(lines)


def summary_values(view: View) -> dict[str, Any]:
    """Return what the dashboard computes from the state: ratios, rates and quantiles."""
    return {
        "seconds": view.total.seconds,
        **activity_values(view.total),
        "modules": {name: activity_values(activity) for name, activity in view.modules.items()},
    }


def activity_values(activity: Activity) -> dict[str, Any]:
    """Return one module's, or the whole deployment's, figures."""
    split = activity.hits
    return {
        "prompt_tokens": activity.grown.get("prompt_tokens"),
        "own_hit_tokens": activity.grown.get("own_hit_tokens"),
        "cross_hit_tokens": activity.grown.get("cross_hit_tokens"),
        "missed_tokens": split.missed if split else None,
        "hit_ratio": split.ratio if split else None,
        "requests": activity.grown.get("requests"),
        "errors": activity.grown.get("errors"),
        "refused": activity.grown.get("refused"),
        "generated_tokens": activity.grown.get("generated_tokens"),
        "generated_tokens_per_s": activity.rate("generated_tokens"),
        "latency_s": {
            name: {f"p{round(100 * q)}": _seconds(activity, name, q) for q in _QUANTILES} for name in LATENCIES
        },
    }


def _seconds(activity: Activity, name: str, q: float) -> float | None:
    value = quantile(activity.grown.histograms.get(name), q)
    return value.seconds if value else None


def _hits(total: Activity) -> str:
    split = total.hits
    if split is None:
        return "no prompt tokens yet"
    own, cross, missed = (words.percent(part / split.prompt) for part in (split.own, split.cross, split.missed))
    return (
        f"prefix hits {words.percent(split.ratio)} of {words.exact(split.prompt)} prompt tokens: "
        f"own {own}, cross-module {cross}, missed {missed}"
    )


def _latency(total: Activity, name: str) -> str:
    values = "  ".join(f"p{round(100 * q)} {words.quantile(total.quantile(name, q))}" for q in _QUANTILES)
    return f"{_TITLES[name]:<11} {values}"


def _module(view: View, index: int) -> str:
    module = view.snapshot.modules[index]
    activity = view.modules[module.name]
    split = activity.hits
    tokens = (module.prompt_tokens, module.own_hit_tokens, module.cross_hit_tokens, split.missed if split else None)
    return (
        f"{words.cut(module.name, 14):<14} {words.exact(module.requests):>6} {words.exact(module.errors):>7} "
        f"{words.exact(module.running):>4} {words.exact(module.queued):>5} "
        + " ".join(f"{words.exact(value):>9}" for value in tokens)
        + f"  {words.percent(split.ratio if split else None):>5}"
        + "".join(f"  {words.quantile(activity.quantile('ttft', q)):>8}" for q in (0.5, 0.95))
    )


def _tenants(view: View) -> list[str]:
    tenants = view.snapshot.tenants
    if tenants is None:
        return []
    head = "tenant             calls  run    prompt    cached  generated        KV  refused"
    rows = [
        f"{words.cut(tenant.name, 14):<14} {words.exact(tenant.calls):>9} {words.exact(tenant.running):>4} "
        f"{words.exact(tenant.prompt_tokens):>9} {words.exact(tenant.cached_tokens):>9} "
        f"{words.exact(tenant.generated_tokens):>10} "
        f"{'common' if tenant.is_shared else words.exact(tenant.kv_tokens):>9} {words.exact(tenant.refused.total):>8}"
        for tenant in tenants.items
    ]
    return [head, *rows, *([f"! {tenants.problem}"] if tenants.problem else []), ""]


def _worker(view: View, index: int) -> str:
    worker = view.snapshot.workers[index]
    return (
        f"{words.cut(worker.id, 14):<14}  {as_text(state_parts(worker)):<8} {words.exact(worker.running):>4} "
        f"{words.exact(worker.queued):>5}  {words.percent(used_ratio(worker.kv)):>7}  {words.exact(worker.restarts):>8}"
    )
