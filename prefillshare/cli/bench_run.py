"""A measurement of `prefillshare bench`: its progress on the terminal, its end, its table and report."""

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from prefillshare.bench.deadline import Deadline
from prefillshare.bench.plan import Plan
from prefillshare.bench.progress import Progress, duration
from prefillshare.bench.report.machine import describe_machine
from prefillshare.bench.report.write import write_report
from prefillshare.bench.runner import Runner
from prefillshare.bench.store import Store
from prefillshare.cli.output import put_table, say

RESULTS_DIR = Path("bench-results")
_CLEAR = "\r\x1b[2K" if sys.stderr.isatty() else ""


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
    progress = Progress(
        num_calls, tell=_clear_before(say), tell_now=_show_current_line, most_left_s=lambda: deadline.left_s
    )
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
        with _interrupt_at(deadline):
            runner.run(progress)
    except BaseException as error:
        if not (isinstance(error, KeyboardInterrupt) and deadline.left_s == 0):
            say(f"{_CLEAR}stopped; continue it with: {resume}")
            _report(store, runner)
            raise
    left_out = sum(map(len, runner.pending))
    if left_out:
        say(f"{_CLEAR}the time limit is reached and {left_out} runs were left out; continue with: {resume}")
    _report(store, runner)
    say(f"done after {duration(time.monotonic() - started)}; report: {store.directory / 'report.html'}")


@contextlib.contextmanager
def _interrupt_at(deadline: Deadline) -> Iterator[None]:
    """Interrupt what takes longer than the deadline allows, such as the start of an engine."""
    if deadline.limit_s is not None:
        signal.setitimer(signal.ITIMER_REAL, max(deadline.left_s, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _clear_before(tell: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: tell(f"{_CLEAR}{line}")


def _show_current_line(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{_CLEAR}{line}")
        sys.stderr.flush()


def _report(store: Store, runner: Runner) -> None:
    header, rows = write_report(store, runner)
    if rows:
        put_table(header, rows)
