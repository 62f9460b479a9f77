"""How many files and connections a process may have open, raised to what the system lets it raise; and logs, which tell
whether somebody still writes to them.
"""

import contextlib
import fcntl
import os
import resource
import select
from pathlib import Path
from typing import BinaryIO, Protocol

FILES_PER_CALL = 3
"""Open files of a call at the router: the client's connection, and one to either worker."""
FEWEST = 256
"""Below that, what an engine itself has open (some 60 files, a store's among them) leaves next to nothing for calls."""
ENOUGH = 1 << 20
"""More is not asked for: some libraries go through every possible number, or keep a table of them."""


class HasDescriptor(Protocol):
    """A file, socket or pipe that is open."""

    def fileno(self) -> int:
        """Return its number in this process."""
        ...


def raise_limit() -> int | None:
    """Let this process, and those that it starts, open as many files as the hard limit allows; return that number.

    Return None when there is no limit. The usual default of 1024 is for programs that call select(), which knows no
    higher number: none here does, `is_readable` waits in its place.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # some systems name a hard limit that they do not grant
        return soft
    return wanted


def find_shortage() -> str | None:
    """Return what is wrong with the hard limit, and the fix; None where it does for a few calls at least."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= FEWEST:
        return None
    return (
        f"the hard limit of open files is {hard}: an engine has some 60 open itself, each connection takes one more, "
        "and beyond the limit calls fail and a store is not opened: raise it, as root: ulimit -Hn 4096, or nofile in "
        "/etc/security/limits.conf"
    )


def is_readable(source: int | HasDescriptor, timeout_s: float) -> bool:
    """Wait up to `timeout_s` seconds until `source` has something to read, its end included; return whether it has."""
    waiter = select.poll()
    waiter.register(source, select.POLLIN)
    return bool(waiter.poll(1000 * timeout_s))


def open_log(path: Path, *, is_new: bool = True) -> BinaryIO:
    """Open a log for appending, readable by this user only; `is_new` empties it.

    Effects: `is_log_in_use` is true until the last process that has it from here, by whatever inheritance, has ended or
    closed it.
    Raises: OSError.
    """
    # The engine writes its arguments into the log, the API key among them. Shared network folders lock for sharing what
    # can be read.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if is_new else 0)
    descriptor = os.open(path, flags, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks: its logs count as left
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return os.fdopen(descriptor, "ab")


def is_log_in_use(path: Path) -> bool:
    """Whether a process, of this machine or of another with the same folder, still writes to a log."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
