"""Children that use a store and end as the test says: by themselves, or killed at any moment."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A forked process that does `work`; it is killed at the end, wherever it is then."""
    pid = _fork(work)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def wait_for(pid: int) -> None:
    """Wait for a child's end; what it raised fails the test."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0), "the child failed: its traceback is above"


def run_in_child(work: Callable[[], object]) -> None:
    """Do `work` in a forked process and wait for it; what it raises fails the test."""
    with child(work) as pid:
        wait_for(pid)


def _fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return pid
