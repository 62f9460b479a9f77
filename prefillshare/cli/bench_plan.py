"""What `prefillshare bench` does: options into a plan, then the measurement with its progress, table and report."""

import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from prefillshare.bench.drivers.load import Load
from prefillshare.bench.plan import Plan
from prefillshare.bench.presets import Preset, choose_preset
from prefillshare.bench.progress import Progress, duration
from prefillshare.bench.report.machine import describe_machine
from prefillshare.bench.report.write import write_report
from prefillshare.bench.runner import Runner
from prefillshare.bench.store import Store
from prefillshare.cli.output import put_table, say
from prefillshare.errors import BenchError

RESULTS_DIR = Path("bench-results")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The options as they were given; None leaves a value to the preset."""

    workload: str
    """Name of the workload."""
    file: Path | None
    """File that it is made from."""
    systems: str
    """Systems, separated by commas."""
    endpoints: tuple[str, ...]
    """NAME=URL of servers that run already."""
    preset: str | None
    """Name of the preset."""
    family: str | None
    """Family or deployment file."""
    modules: str
    """Numbers of modules, separated by commas."""
    concurrency: str | None
    """Closed loops."""
    rate: str | None
    """Poisson rates."""
    speed: str | None
    """Factors on the speed of a trace."""
    sizes: dict[str, int | None]
    """Fields of the workload's shape."""
    output_tokens: str | None
    """Answer lengths, separated by commas."""
    kv_tokens: int | None
    """KV budget; 0 leaves it to the engine."""
    slo: dict[str, float | None]
    """Fields of the SLO."""
    repeats: int
    """Starts of each system."""
    num_checked: int
    """Answers that are compared with the reference."""


def make_plan(options: BenchOptions) -> Plan:
    """The plan that the options ask for.

    Raises: BenchError.
    """
    preset = choose_preset(options.preset)
    sizes: dict[str, Any] = _given(options.sizes)
    if options.output_tokens is not None:
        sizes["output_tokens"] = _numbers("--output-tokens", options.output_tokens, int)
    systems = tuple(name for name in options.systems.split(",") if name)
    return Plan(
        workload=options.workload,
        file=options.file.resolve() if options.file else None,
        # Where nothing is started, only the number of modules counts.
        family=options.family or (preset.family if systems else "tiny"),
        systems=systems,
        endpoints=options.endpoints,
        module_counts=_numbers("--modules", options.modules, int),
        loads=_loads(options, preset),
        repeats=options.repeats,
        shape=replace(preset.shape, **sizes),
        kv_tokens=preset.kv_tokens if options.kv_tokens is None else options.kv_tokens or None,
        slo=replace(preset.slo, **_given(options.slo)),
        num_checked=options.num_checked,
        command=shlex.join(["prefillshare", *sys.argv[1:]]),
    )


def measure(directory: Path | None, plan: Plan | None, api_key: str | None, num_checked: int | None = None) -> None:
    """Run a new plan, or continue the one in `directory`; print the table of what is done, come what may.

    A continued plan checks `num_checked` answers per run if that is given.

    Effects: writes the measurement's directory; from now on, SIGTERM ends the process as Ctrl-C does, and SIGINT also
    where a shell started it in the background, ignoring it.
    Raises: KeyboardInterrupt after either, when what is done has been reported.
    """
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.default_int_handler)
    if plan is None:
        assert directory is not None
        store = Store(directory)
        plan = store.plan()
        plan = plan if num_checked is None else replace(plan, num_checked=num_checked)
        runner = Runner(plan, store, tell=say, api_key=api_key)
        num_calls = runner.num_calls()
    else:
        store = Store(directory or RESULTS_DIR / f"{plan.workload}-{time.strftime('%Y%m%d-%H%M%S')}")
        store.check_new()  # before the weights are made
        runner = Runner(plan, store, tell=say, api_key=api_key)
        num_calls = runner.num_calls()  # refuses what cannot be measured, before anything is written
        store.begin(plan, describe_machine())
    started = time.monotonic()
    say(
        f"{', '.join(plan.system_names)}: {len(runner.pending)} starts, {num_calls} calls, results in {store.directory}"
    )
    try:
        progress = Progress(num_calls, tell=_lines(say), tell_now=_current_line)
        runner.run(progress)
    except BaseException:
        say(f"{_CLEAR}stopped; continue it with: prefillshare bench --resume {shlex.quote(str(store.directory))}")
        _report(store, runner)
        raise
    _report(store, runner)
    say(f"done after {duration(time.monotonic() - started)}; report: {store.directory / 'report.html'}")


_CLEAR = "\r\x1b[2K" if sys.stderr.isatty() else ""


def _lines(tell: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: tell(f"{_CLEAR}{line}")


def _current_line(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{_CLEAR}{line}")
        sys.stderr.flush()


def _report(store: Store, runner: Runner) -> None:
    header, rows = write_report(store, runner)
    if rows:
        put_table(header, rows)


def _loads(options: BenchOptions, preset: Preset) -> tuple[Load, ...]:
    loads = []
    if options.concurrency is not None:
        loads += [Load(kind="closed", value=value) for value in _numbers("--concurrency", options.concurrency, int)]
    if options.rate is not None:
        loads += [Load(kind="poisson", value=value) for value in _numbers("--rate", options.rate, float)]
    if options.speed is not None:
        loads += [Load(kind="timed", value=value) for value in _numbers("--speed", options.speed, float)]
    if not loads and options.workload == "trace":
        return (Load(kind="timed", value=1),)
    if len({load.kind for load in loads}) > 1:
        raise BenchError("--concurrency, --rate and --speed are different kinds of load: give one of them")
    return tuple(loads) or preset.loads


def _numbers(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise BenchError(f"{option} {text!r} is no list of numbers: write one such as 1,2,4") from None


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
