"""Standard streams that whoever started the command had closed, as `<&-` and some schedulers do."""

import os
import sys

_STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


def open_closed_streams() -> None:
    """Let each standard stream that is closed be an empty one, before anything else gets its number.

    Python has None in its place, which no command expects; and a log or a socket that is opened as number 1 would hear
    what child processes print.
    """
    for number, name, mode in _STREAMS:
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
