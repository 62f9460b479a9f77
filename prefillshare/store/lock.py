"""Locks between processes that end with their holder.

`flock` belongs to an open file description: a child that is forked shares it, so that a lock would outlive the process
that took it. Every lock therefore opens its file anew in a child.
"""

import contextlib
import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator

_FIRST_PAUSE_S = 0.00005
_LONGEST_PAUSE_S = 0.002


class FileLock:
    """One lock over an open file, for the threads of all processes that have it open."""

    def __init__(self, descriptor: int) -> None:
        """Lock the file behind `descriptor`, whatever its path is or becomes."""
        self._opened = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        self._threads = threading.Lock()
        _LOCKS.add(self)

    @contextlib.contextmanager
    def held(self, timeout_s: float) -> Iterator[None]:
        """Hold the lock.

        Raises: TimeoutError when others held it for `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        if not self._threads.acquire(timeout=timeout_s):
            raise TimeoutError(f"another thread held the store's table for {timeout_s} s")
        try:
            self._wait(deadline, timeout_s)
            try:
                yield
            finally:
                fcntl.flock(self._opened, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _wait(self, deadline: float, timeout_s: float) -> None:
        pause_s = _FIRST_PAUSE_S
        while not try_lock(self._opened, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process held the store's table for {timeout_s} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Give the file back."""
        _LOCKS.discard(self)
        os.close(self._opened)

    def renew_after_fork(self) -> None:
        """In a child: leave the parent's lock alone, and have one of our own."""
        inherited = self._opened
        self._opened = os.open(f"/proc/self/fd/{inherited}", os.O_RDWR | os.O_CLOEXEC)
        os.close(inherited)
        self._threads = threading.Lock()  # a thread of the parent may have held it


_LOCKS: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def try_lock(descriptor: int, operation: int) -> bool:
    """Take a `flock` unless somebody is in the way; return whether it was taken."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _renew_locks() -> None:
    for lock in list(_LOCKS):
        lock.renew_after_fork()


os.register_at_fork(after_in_child=_renew_locks)
