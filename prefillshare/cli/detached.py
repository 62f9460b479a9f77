"""A command that goes on when it has returned: it starts at its terminal, where people see how far it is and why it
fails, and leaves that when it serves.

The part that goes on is forked before anything is begun, so it has every option as it was given, keys among them, and
none of them stands in the arguments of a process. It is the leader of a session of its own: a terminal that closes, or
Ctrl-C there, does not reach it.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from prefillshare.cli.errors import EXIT_INTERRUPTED
from prefillshare.cli.output import say

EXIT_KILLED = 4
"""That of an engine which could not be started."""
_READY = b"r"
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Detached:
    """The part that goes on; make one with `detach`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._has_left = False

    def say(self, text: str) -> None:
        """Say something at the terminal, or, with the time, in the log."""
        say(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}" if self._has_left else text)

    def leave(self, log_path: Path) -> None:
        """Let the command return with exit code 0; what this process says from here on goes to `log_path`."""
        from prefillshare.open_files import open_log

        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        with open_log(log_path) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        with contextlib.suppress(BrokenPipeError):  # the command was killed: nobody waits
            os.write(self._descriptor, _READY)
        os.close(self._descriptor)
        self._has_left = True


def detach() -> Detached:
    """Return in the part that goes on; the command itself waits for it here, and ends.

    Call it before any thread starts: a fork takes none along.
    Raises: SystemExit in the command, with the code of a part that ended instead of serving.
    """
    ours, theirs = os.pipe()
    if (child := os.fork()) != 0:
        os.close(theirs)
        raise SystemExit(_wait(child, ours))
    os.close(ours)
    os.setsid()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return Detached(theirs)


def _wait(child: int, descriptor: int) -> int:
    is_stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopped
        is_stopped = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)

    for number in _STOPS:
        signal.signal(number, stop)
    # The pipe ends without a word when the other part does.
    if os.read(descriptor, len(_READY)) == _READY:
        return 0
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        say(f"error: the start was killed by signal {-code}")
        return EXIT_KILLED
    return EXIT_INTERRUPTED if is_stopped or code == 0 else code
