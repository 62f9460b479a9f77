"""The figures of one simulated run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from prefillshare.bench.drivers.load import Load
from prefillshare.bench.metrics.statistics import percentile
from prefillshare.bench.records import CallRecord, RunRecord
from prefillshare.bench.workloads.base import Workload
from prefillshare.simulation.system import SimulatedSystem, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a call must reach to count as good."""

    ttft_s: float | None = None
    """Longest time to the first token; None is any."""
    e2e_s: float | None = None
    """Longest time to the last token; None is any."""

    def is_met(self, call: CallRecord) -> bool:
        """Whether an answered call was good."""
        return all(
            limit_s is None or (took_s is not None and took_s <= limit_s)
            for limit_s, took_s in ((self.ttft_s, call.ttft_s), (self.e2e_s, call.latency_s))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came of one system of one size under one load; times in simulated seconds."""

    system: str
    """Policy of the shared system, or `per-module`."""
    workers: str
    """Size, such as 4P+4D."""
    num_workers: int
    """All workers."""
    load: str
    """Load, for people."""
    load_value: float
    """Sessions at a time, sessions per second, or speed of the trace."""
    answered: int
    """Calls that were answered."""
    failed: int
    """Calls that were refused, and those that their sessions did not get to after it."""
    seconds: float
    """From the start to the last answer."""
    calls_per_s: float
    """Answered calls per second."""
    goodput_calls_per_s: float | None
    """Answered calls per second that were within the limits; None without limits."""
    output_tokens_per_s: float
    """Generated tokens per second."""
    latency_p50_s: float | None
    """End to end."""
    latency_p95_s: float | None
    """End to end."""
    ttft_p50_s: float | None
    """To the first token."""
    ttft_p95_s: float | None
    """To the first token."""
    hit_ratio: float
    """Share of prompt tokens that were not computed while a call waited."""
    ideal_shared_ratio: float
    """Hit ratio of one cache without limits."""
    ideal_own_ratio: float
    """Hit ratio of caches per module without limits."""
    prefilled_per_unique: float
    """Computed tokens per distinct prompt token: 1 is the least possible without knowing answers."""
    handoff_per_prompt: float
    """Share of prompt tokens whose KV was moved."""
    imbalance: float
    """Busy time of the busiest prefill worker over the mean: 1 is even."""
    decode_imbalance: float
    """The same of decode workers, whichever module they have."""
    prefill_busy: float
    """Share of the time for which prefill workers were busy."""
    decode_busy: float
    """Share of the time for which decode workers were busy."""
    link_busy: float
    """Share of the time for which KV was on its way from or to a worker, mean of all."""
    core_s_per_call: float
    """Core seconds of an answered call, where workers share the cores of a machine; else 0."""
    prefill_core_s_per_call: float
    """Of these, those of prefill workers."""
    decode_core_s_per_call: float
    """Of these, those of decode workers."""
    repins: int
    """Sessions that were moved to another prefill worker, counted each time."""
    choice_us: float
    """Processor time of a choice by the router's own code on this machine, in microseconds; not simulated."""


def measure(
    *,
    system: SimulatedSystem,
    name: str,
    size: Size,
    load: Load,
    workload: Workload,
    run: RunRecord,
    slo: Slo | None = None,
) -> Figures:
    """Return the figures of a run that has ended, with goodput under `slo`."""
    good = [call for call in run.calls if call.error is None]
    ideals = system.ideals
    computed = sum(worker.num_computed for worker in system.prefill.values())
    ahead = sum(worker.num_computed_ahead for worker in system.prefill.values())
    routers = set(system.routers.values())
    prompt_tokens = ideals.prompt_tokens or 1
    are_shared = system.cores.are_shared
    prefill_core_s = are_shared * sum(worker.busy_s for worker in system.prefill.values())
    decode_core_s = are_shared * sum(worker.busy_s + worker.beside_s for worker in system.decode.values())
    return Figures(
        system=name,
        workers=size.title,
        num_workers=size.num_workers,
        load=load.title,
        load_value=load.value,
        answered=len(good),
        failed=workload.num_calls - len(good),
        seconds=run.wall_s,
        calls_per_s=_per(len(good), run.wall_s),
        goodput_calls_per_s=None if slo is None else _per(sum(map(slo.is_met, good)), run.wall_s),
        output_tokens_per_s=_per(sum(len(call.output) for call in good), run.wall_s),
        latency_p50_s=_percentile((call.latency_s for call in good), 50),
        latency_p95_s=_percentile((call.latency_s for call in good), 95),
        ttft_p50_s=_percentile((call.ttft_s for call in good), 50),
        ttft_p95_s=_percentile((call.ttft_s for call in good), 95),
        hit_ratio=1 - (computed - ahead) / prompt_tokens,
        ideal_shared_ratio=ideals.shared_tokens / prompt_tokens,
        ideal_own_ratio=ideals.own_tokens / prompt_tokens,
        prefilled_per_unique=_per(computed, ideals.unique_tokens),
        handoff_per_prompt=system.handoff_tokens / prompt_tokens,
        imbalance=_imbalance([worker.busy_s for worker in system.prefill.values()]),
        decode_imbalance=_imbalance([worker.busy_s for worker in system.decode.values()]),
        prefill_busy=_per(_mean(worker.busy_s for worker in system.prefill.values()), run.wall_s),
        decode_busy=_per(_mean(worker.busy_s for worker in system.decode.values()), run.wall_s),
        link_busy=_per(_mean(link.busy_s for link in system.links), run.wall_s),
        core_s_per_call=_per(system.cores.busy_s, len(good)),
        prefill_core_s_per_call=_per(prefill_core_s, len(good)),
        decode_core_s_per_call=_per(decode_core_s, len(good)),
        repins=sum(router.sessions.num_repins for router in routers),
        choice_us=_per(
            1e6 * sum(router.chooser.cpu_s for router in routers), sum(router.chooser.num_choices for router in routers)
        ),
    )


def as_rows(results: Sequence[Figures]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table: what stands on its head is a subset, the JSON has all."""
    header = ["workers", "load", "system", *(title for _, title, _ in _COLUMNS)]
    rows = []
    for result in results:
        values = asdict(result)
        cells = ["-" if values[key] is None else f"{values[key]:.{digits}f}" for key, _, digits in _COLUMNS]
        rows.append([result.workers, result.load, result.system, *cells])
    return header, rows


_COLUMNS = (
    ("latency_p50_s", "p50 [s]", 3),
    ("latency_p95_s", "p95 [s]", 3),
    ("ttft_p50_s", "TTFT p50 [s]", 3),
    ("ttft_p95_s", "TTFT p95 [s]", 3),
    ("output_tokens_per_s", "tokens/s", 1),
    ("calls_per_s", "calls/s", 2),
    ("goodput_calls_per_s", "goodput [calls/s]", 2),
    ("hit_ratio", "hit ratio", 3),
    ("ideal_shared_ratio", "ideal shared", 3),
    ("ideal_own_ratio", "ideal own", 3),
    ("prefilled_per_unique", "prefilled/unique", 3),
    ("imbalance", "imbalance", 2),
    ("prefill_busy", "prefill busy", 2),
    ("decode_busy", "decode busy", 2),
    ("link_busy", "link busy", 2),
    ("failed", "failed", 0),
    ("choice_us", "choice [us]", 0),
)


def _percentile(values: Iterable[float | None], percent: float) -> float | None:
    return percentile([value for value in values if value is not None], percent)


def _imbalance(busy_s: Sequence[float]) -> float:
    mean_s = _mean(busy_s)
    return max(busy_s) / mean_s if mean_s else 1.0


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def _per(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
