"""How a served deployment ends: the first signal drains, the second one kills."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol

from prefillshare.serving.join.worker import JoinedWorker
from prefillshare.serving.launch import RunningDeployment
from prefillshare.serving.machine.logs import bound_log
from prefillshare.serving.run.record import asked_drain_s, forget_wish, record_of, remove_record, write_record

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.2

Served = RunningDeployment | JoinedWorker
"""What runs until it is stopped."""


class StopRequested(BaseException):
    """A signal asked this process to end. No Exception, so that nothing on the way takes it for an error."""


class Companion(Protocol):
    """Something that runs beside the deployment and ends before anything is stopped."""

    def __enter__(self) -> object:
        """Start it."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        ...

    def look(self) -> None:
        """Called often. Raises: StopRequested when it wants the deployment to stop."""
        ...


class Alone:
    """No companion."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def look(self) -> None:
        """Wants nothing."""


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into StopRequested while the block runs."""
    before = {number: signal.signal(number, _raise_stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve_until_stopped(
    running: Served,
    drain_s: float,
    say: Callable[[str], None],
    announce: Callable[[], None],
    companion: Companion | None = None,
    log_path: Path | None = None,
) -> None:
    """Call `announce`, look after the deployment until a signal comes or `companion` wants it to stop, then end it.

    `log_path` is the file that holds what this process says, where it is at no terminal.
    Effects: returns with no process left. By the time of `announce`, other commands find the deployment.
    Raises: LaunchError when the deployment cannot go on by itself.
    """
    forget_wish()
    try:
        _record(running, log_path)
        announce()
        beside = companion or Alone()
        with beside:
            _look_after(running, beside, log_path)
    except StopRequested:
        asked = asked_drain_s()
        _drain(running, drain_s if asked is None else asked, say)
    finally:
        remove_record(os.getpid())


def _look_after(running: Served, companion: Companion, log_path: Path | None) -> None:
    known = None
    while True:
        running.step()
        companion.look()
        if (seen := (running.processes(), running.model_names)) != known:
            # Where the disk was full, again, until `ps` can tell how things stand.
            known = seen if _record(running, log_path) else None
        if log_path is not None:
            bound_log(log_path)
        time.sleep(_POLL_S)


def _record(running: Served, log_path: Path | None) -> bool:
    config = running.deployment.config
    return write_record(
        record_of(
            config.name,
            config.topology,
            running.url,
            running.model_names,
            running.processes(),
            log=log_path,
            overrides=config.overrides,
        )
    )


def _drain(running: Served, drain_s: float, say: Callable[[str], None]) -> None:
    try:
        if num_running := running.num_running():
            say(f"stopping: {num_running} running requests get up to {drain_s:.0f} s (Ctrl-C again ends them now)")
        running.stop(drain_s)
    except StopRequested:
        pass
    with _ignore_signals():
        running.kill()


@contextlib.contextmanager
def _ignore_signals() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_stop(number: int, frame: FrameType | None) -> None:
    raise StopRequested(number)
