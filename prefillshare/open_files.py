"""How many files and connections a process may have open, raised to what the system lets it raise."""

import resource

FILES_PER_CALL = 3
"""Open files of a call at the router: the client's connection, and one to either worker."""
FEWEST = 256
"""Below that, what an engine itself has open (some 60 files, a store's among them) leaves next to nothing for calls."""
ENOUGH = 1 << 20
"""More is not asked for: some libraries go through every possible number, or keep a table of them."""


def raise_limit() -> int | None:
    """Let this process, and those that it starts, open as many files as the hard limit allows; return that number.

    Return None when there is no limit. The usual default of 1024 is for programs that call select(): none here does.
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
