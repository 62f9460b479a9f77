"""Commands as they read on any machine."""

import re
import sys
from pathlib import Path

from prefillshare.places import home_directory

_OUT = re.compile(r" --(?:out|resume)[ =]\S+")


def make_portable(command: str) -> str:
    """A command without this machine's directories: `python` for this interpreter, `.` for the current directory."""
    named = command.replace(sys.executable, "python").replace(sys.prefix, "$VIRTUAL_ENV")
    return _OUT.sub("", named.replace(f"{Path.cwd()}/", "./").replace(f"{home_directory()}/", "~/"))
