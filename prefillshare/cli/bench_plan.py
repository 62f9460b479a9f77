"""What `prefillshare bench` does: options into a plan, then the measurement with its progress, table and report."""

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from prefillshare.bench.deadline import Deadline
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
    modules: str | None
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
    repeats: int | None
    """Starts of each system."""
    num_checked: int | None
    """Answers that are compared with the reference."""
    run_limit_s: float | None
    """Seconds of a run."""
    time_limit_s: float | None
    """Seconds of the whole call."""


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
        module_counts=_numbers("--modules", options.modules, int) if options.modules else preset.module_counts,
        loads=_loads(options, preset),
        repeats=_first(options.repeats, preset.repeats),
        shape=replace(preset.shape, **sizes),
        kv_tokens=preset.kv_tokens if options.kv_tokens is None else options.kv_tokens or None,
        slo=replace(preset.slo, **_given(options.slo)),
        num_checked=_first(options.num_checked, preset.num_checked),
        run_limit_s=options.run_limit_s or preset.run_limit_s,
        time_limit_s=options.time_limit_s or preset.time_limit_s,
        command=shlex.join(["prefillshare", *sys.argv[1:]]),
    )


def measure(directory: Path | None, plan: Plan | None, api_key: str | None, num_checked: int | None = None) -> None:
    """Run a new plan, or continue the one in `directory`; print the table of what is done, come what may.

    A continued plan checks `num_checked` answers per run if that is given.

    Effects: writes the measurement's directory; from now on, SIGTERM ends the process as Ctrl-C does, and SIGINT also
    where a shell started it in the background, ignoring it.
    Raises: KeyboardInterrupt after either, when what is done has been reported.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler)
    is_resumed = plan is None
    store, plan = _open(directory, plan, num_checked)
    deadline = Deadline(plan.time_limit_s)
    runner = Runner(plan, store, tell=say, api_key=api_key, deadline=deadline)
    num_calls = runner.num_calls()  # refuses what cannot be measured, before anything is written
    if not is_resumed:
        store.begin(plan, describe_machine())
    names = ", ".join(plan.system_names)
    say(f"{names}: {len(runner.pending)} starts, {num_calls} calls, results in {store.directory}")
    progress = Progress(num_calls, tell=_lines(say), tell_now=_current_line, most_left_s=lambda: deadline.left_s)
    _run(runner, progress, deadline, store)


def _open(directory: Path | None, plan: Plan | None, num_checked: int | None) -> tuple[Store, Plan]:
    if plan is not None:
        store = Store(directory or RESULTS_DIR / f"{plan.workload}-{time.strftime('%Y%m%d-%H%M%S')}")
        store.check_new()  # before the weights are made
        return store, plan
    assert directory is not None
    store = Store(directory)
    plan = store.plan()
    return store, plan if num_checked is None else replace(plan, num_checked=num_checked)


def _run(runner: Runner, progress: Progress, deadline: Deadline, store: Store) -> None:
    """Run what is pending and report what is done, come what may; the end of the time is no failure."""
    started, resume = time.monotonic(), f"prefillshare bench --resume {shlex.quote(str(store.directory))}"
    try:
        with _alarm(deadline):
            runner.run(progress)
    except BaseException as error:
        if not (isinstance(error, KeyboardInterrupt) and deadline.left_s == 0):
            say(f"{_CLEAR}stopped; continue it with: {resume}")
            _report(store, runner)
            raise
    left_out = sum(map(len, runner.pending))
    if left_out:
        say(f"{_CLEAR}the time is over and {left_out} runs were left out; continue with: {resume}")
    _report(store, runner)
    say(f"done after {duration(time.monotonic() - started)}; report: {store.directory / 'report.html'}")


@contextlib.contextmanager
def _alarm(deadline: Deadline) -> Iterator[None]:
    """Interrupt what takes longer than the deadline allows, such as the start of an engine."""
    if deadline.limit_s is not None:
        signal.setitimer(signal.ITIMER_REAL, max(deadline.left_s, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


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


def _first(given: T | None, otherwise: T) -> T:
    return otherwise if given is None else given


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
