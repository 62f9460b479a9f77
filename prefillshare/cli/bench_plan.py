"""The options of `prefillshare bench` into a plan; the preset fills in what is not given."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from prefillshare.bench.drivers.load import Load, LoadKind
from prefillshare.bench.plan import Plan
from prefillshare.bench.presets import Preset, choose_preset
from prefillshare.cli.bench_options import BenchOptions
from prefillshare.errors import BenchError

_LOAD_OPTIONS: Mapping[LoadKind, str] = {"closed": "--concurrency", "poisson": "--rate", "timed": "--speed"}

T = TypeVar("T")


def make_plan(options: BenchOptions) -> Plan:
    """The plan that the options ask for.

    Raises: BenchError.
    """
    assert options.workload is not None
    preset = choose_preset(options.preset)
    sizes: dict[str, Any] = _drop_missing(options.sizes)
    if options.output_tokens is not None:
        sizes["output_tokens"] = parse_numbers("--output-tokens", options.output_tokens, int)
    systems = tuple(name for name in options.systems.split(",") if name)
    return Plan(
        workload=options.workload,
        file=options.file.resolve() if options.file else None,
        # Where nothing is started, only the number of modules counts.
        family=options.family or (preset.family if systems else "tiny"),
        changes=options.changes,
        systems=systems,
        endpoints=options.endpoints,
        module_counts=parse_numbers("--modules", options.modules, int) if options.modules else preset.module_counts,
        loads=_choose_loads(options, preset),
        repeats=_or_else(options.repeats, preset.repeats),
        shape=replace(preset.shape, **sizes),
        kv_tokens=preset.kv_tokens if options.kv_tokens is None else options.kv_tokens or None,
        store_memory=options.store,
        slo=replace(preset.slo, **_drop_missing(options.slo)),
        num_checked=_or_else(options.num_checked, preset.num_checked),
        run_limit_s=options.run_limit_s or preset.run_limit_s,
        time_limit_s=options.time_limit_s or preset.time_limit_s,
        command=shlex.join(["prefillshare", *sys.argv[1:]]),
    )


def _choose_loads(options: BenchOptions, preset: Preset) -> tuple[Load, ...]:
    is_trace = options.workload == "trace"
    loads = read_loads({"closed": options.concurrency, "poisson": options.rate, "timed": options.speed})
    if options.speed is not None and not is_trace:
        raise BenchError(
            f"--speed plays a trace's own arrival times, and {options.workload} has none: give --rate or --concurrency"
        )
    return loads or ((Load(kind="timed", value=1),) if is_trace else preset.loads)


def read_loads(given: Mapping[LoadKind, str | None], *, is_closed_whole: bool = True) -> tuple[Load, ...]:
    """Return the loads of the one kind that is given; none where none is.

    Raises: BenchError for several kinds, or for what is no list of numbers.
    """
    texts = {kind: text for kind, text in given.items() if text is not None}
    if len(texts) > 1:
        raise BenchError("--concurrency, --rate and --speed are different kinds of load: give one of them")
    return tuple(
        Load(kind=kind, value=value)
        for kind, text in texts.items()
        for value in parse_numbers(_LOAD_OPTIONS[kind], text, int if kind == "closed" and is_closed_whole else float)
    )


def parse_numbers(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Return the numbers in `text`, separated by commas.

    Raises: BenchError, naming the option.
    """
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise BenchError(f"{option} {text!r} is not a list of numbers: write one such as 1,2,4") from None


def _or_else(given: T | None, otherwise: T) -> T:
    return otherwise if given is None else given


def _drop_missing(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
