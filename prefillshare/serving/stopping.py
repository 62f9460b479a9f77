"""How a served deployment ends: the first signal drains, the second one kills."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from prefillshare.errors import LaunchError
from prefillshare.serving.launch import RunningDeployment
from prefillshare.serving.progress import last_lines, read_log, reason_of

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.2


class StopRequested(BaseException):
    """A signal asked this process to end. No Exception, so that nothing on the way takes it for an error."""


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
    running: RunningDeployment, drain_s: float, say: Callable[[str], None], announce: Callable[[], None]
) -> None:
    """Call `announce`, wait until a signal comes, then end the engine.

    Effects: returns with no process of the engine left.
    Raises: LaunchError when the engine ends by itself.
    """
    try:
        announce()
        while running.process.exit_code() is None:
            time.sleep(_POLL_S)
    except StopRequested:
        _drain(running, drain_s, say)
        return
    running.process.kill()
    log = read_log(running.log_path)
    tail = "\n".join(f"  {line}" for line in last_lines(log))
    reason = reason_of(log) or f"exit code {running.process.exit_code()}"
    raise LaunchError(f"the engine ended by itself: {reason}\nIts last lines ({running.log_path}):\n{tail}")


def _drain(running: RunningDeployment, drain_s: float, say: Callable[[str], None]) -> None:
    try:
        if num_running := running.num_running():
            say(f"stopping: {num_running} running requests get up to {drain_s:.0f} s (Ctrl-C again ends them now)")
        running.stop(drain_s)
    except StopRequested:
        pass
    with _no_signals():
        running.process.kill()


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_stop(number: int, frame: FrameType | None) -> None:
    raise StopRequested(number)
