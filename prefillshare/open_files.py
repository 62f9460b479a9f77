"""How many files and connections a process may have open, raised to what the system lets it raise."""

import resource
import select
from typing import Protocol

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
