"""How many files and connections a process may have open, raised to what the system lets it raise."""

import resource

FILES_PER_CALL = 3
"""Open files of a call at the router: the client's connection, and one to either worker."""
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
