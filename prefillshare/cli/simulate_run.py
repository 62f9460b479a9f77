"""`prefillshare simulate`: its options into a plan, its figures onto the terminal and into files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from prefillshare.bench.drivers.load import Load, LoadKind
from prefillshare.bench.families.base import module_name
from prefillshare.bench.workloads.base import Shape
from prefillshare.cli.bench_options import read_sizes
from prefillshare.cli.bench_plan import parse_numbers, read_loads
from prefillshare.cli.output import put_json, put_table, say
from prefillshare.config import load_deployment
from prefillshare.config.schema import Deployment
from prefillshare.errors import SimulationError
from prefillshare.simulation.figures import Slo, as_rows
from prefillshare.simulation.model import WorkerModel, write_model
from prefillshare.simulation.presets import choose_model
from prefillshare.simulation.report import draw_report
from prefillshare.simulation.run import PER_MODULE, Case, Plan, simulate
from prefillshare.simulation.sizes import parse_sizes
from prefillshare.simulation.system import Size

_SHAPE = Shape(
    num_sessions=32,
    start_tokens=1200,
    growth_tokens=300,
    output_tokens=(200,),
    turns=16,
    context_length=32768,
    vocab_size=100_000,
)
"""An agent's session of 16 calls and up to 8,700 tokens: one for which caches per module reach 60 % at best."""

_WHOLE_TRACE = 10**9
"""More lines than any trace has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """The options as they were given."""

    file: Path
    """Deployment file."""
    changes: tuple[str, ...] = ()
    """Keys of it that are set in its place."""
    workload: str
    """Name of the workload."""
    trace: Path | None
    """File that it is made from."""
    workers: str | None
    """Numbers of workers; None leaves them to the file."""
    systems: str | None
    """Policies and `per-module`, separated by commas; None takes `prefix_aware`, and `per-module` where that fits."""
    model: str
    """Preset or file."""
    num_modules: int | None
    """Decode modules; None leaves them to the file."""
    loads: dict[LoadKind, str | None]
    """Numbers by kind of load."""
    arrival_rate: float | None
    """Sessions per second that arrive in a closed loop."""
    is_load_per_worker: bool
    """Whether the load is that of one worker."""
    sizes: dict[str, float | None]
    """Fields of the workload's shape."""
    output_tokens: str | None
    """Answer lengths."""
    is_eager: bool
    """Whether answers are computed ahead."""
    slo: dict[str, float | None]
    """Limits of a call that counts as good, in seconds."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Simulated":
        """Return the options of the command by the names of its parameters."""
        renamed: dict[str, Any] = {
            "changes": tuple(given["changes"] or ()),
            "workload": "trace" if given["trace"] else given["workload"],
            "num_modules": given["modules"],
            "loads": {"closed": given["concurrency"], "poisson": given["rate"], "timed": given["speed"]},
            "arrival_rate": given["arrivals"],
            "is_load_per_worker": given["per_worker"],
            "sizes": read_sizes(given),
            "is_eager": given["eager"],
            "slo": {"ttft_s": given["slo_ttft"], "e2e_s": given["slo_e2e"]},
        }
        same = {field.name: given[field.name] for field in fields(cls) if field.name not in renamed}
        return cls(**same, **renamed)


def run_plan(options: Simulated, model: WorkerModel | None, *, as_json: bool, out: Path | None) -> None:
    """Simulate everything and print its figures; without `model`, by the one that the options name.

    Raises: PrefillShareError.
    """
    plan = make_plan(options, model or choose_model(options.model))
    if out is not None:
        _make_directory(out)
    say(f"worker model {plan.model.name}: {plan.model.source}")
    cases = list(simulate(plan, tell=say))
    if as_json:
        put_json([asdict(case.figures) for case in cases])
    else:
        put_table(*as_rows([case.figures for case in cases]))
    if out is not None:
        _write(cases, plan, out)


def fit_model(options: Simulated, url: str, api_key: str | None, file: Path | None) -> WorkerModel:
    """Return the model of the deployment at `url`, and write it to `file` if that is given.

    Raises: PrefillShareError.
    """
    from prefillshare.simulation.fit import fit_deployment

    model = fit_deployment(_load(options.file, options.changes), url, api_key, tell=say)
    if file is not None:
        write_model(model, file)
        say(f"wrote {file}; next: prefillshare simulate {options.file} --model {file}")
    return model


def make_plan(options: Simulated, model: WorkerModel) -> Plan:
    """Return the plan that the options ask for.

    Raises: PrefillShareError.
    """
    deployment = _load(options.file, options.changes)
    modules = tuple(module.name for module in deployment.decode)
    if options.num_modules is not None:
        modules = tuple(module_name(number) for number in range(options.num_modules))
    sizes: dict[str, Any] = {name: value for name, value in options.sizes.items() if value is not None}
    if options.trace is not None:
        sizes.setdefault("num_sessions", _WHOLE_TRACE)
    if options.output_tokens is not None:
        sizes["output_tokens"] = parse_numbers("--output-tokens", options.output_tokens, int)
    eager, limits = options.is_eager, options.slo
    numbers = parse_sizes(options.workers) if options.workers else (_own_size(deployment, len(modules)),)
    return Plan(
        workload=options.workload,
        file=options.trace,
        shape=replace(_SHAPE, **sizes),
        modules=modules,
        systems=_choose_systems(options.systems, numbers, len(modules)),
        sizes=numbers,
        loads=_choose_loads(options),
        model=model,
        settings=deployment.router,
        is_load_per_worker=options.is_load_per_worker,
        arrival_rate=options.arrival_rate,
        eager_min_tokens=deployment.prefill.eager_min_tokens if eager else None,
        slo=Slo(**limits) if any(limit is not None for limit in limits.values()) else None,
    )


def _load(file: Path, changes: Sequence[str]) -> Deployment:
    deployment = load_deployment(file, changes)
    if deployment.topology != "disaggregated":
        raise SimulationError(
            f'{file} has topology = "colocated", one engine without a router, and what is simulated is the router over '
            'many workers: give a file with topology = "disaggregated"'
        )
    if (own := next((module.name for module in deployment.decode if not module.share), None)) is not None:
        raise SimulationError(
            f"{file} has share = false for {own!r}, and what is simulated is prompts that prefill workers compute for "
            "all: give a file without that module"
        )
    return deployment


def _own_size(deployment: Deployment, num_modules: int) -> Size:
    own = sum(module.replicas for module in deployment.decode)
    return Size(num_prefill=deployment.prefill.workers, num_decode=max(own, num_modules))


def _choose_systems(given: str | None, sizes: Sequence[Size], num_modules: int) -> tuple[str, ...]:
    if given is not None:
        return tuple(name for name in given.split(",") if name)
    if (small := next((size for size in sizes if size.num_prefill < num_modules), None)) is None:
        return ("prefix_aware", PER_MODULE)
    say(
        f"{PER_MODULE} is left out: {small.title} has no prefill worker for each of {num_modules} modules; for both, "
        f"give --workers {num_modules}+{max(num_modules, small.num_decode)} or more"
    )
    return ("prefix_aware",)


def _choose_loads(options: Simulated) -> tuple[Load, ...]:
    loads = read_loads(options.loads, is_closed_whole=not options.is_load_per_worker)
    if options.loads.get("timed") is not None and options.trace is None:
        raise SimulationError("--speed plays a trace's own arrival times: give --trace, or --rate or --concurrency")
    if options.arrival_rate is not None and options.loads.get("closed") is None:
        raise SimulationError("--arrivals says how sessions come to --concurrency: give that as well, or --rate alone")
    return loads or (Load(kind="timed", value=1) if options.trace is not None else Load(kind="closed", value=8),)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SimulationError(f"{directory} cannot be made ({error.strerror or error}): choose another --out") from None


def _write(cases: list[Case], plan: Plan, directory: Path) -> None:
    content = {"model": asdict(plan.model), "figures": [asdict(case.figures) for case in cases]}
    (directory / "figures.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    files = draw_report(cases, len(plan.modules), directory / "plots")
    say(f"wrote {directory / 'figures.json'} and {len(files)} plots in {directory / 'plots'}")
