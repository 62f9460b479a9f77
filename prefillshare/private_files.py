"""Files that hold secrets: keys of clients, of the admin, of a deployment's parts, of the hosts of a store.

One judge for all who read such a file, and for `prefillshare doctor`, which looks at them before. Root may own one: it
reads what it likes anyway, and it is who mounts secrets into containers.
"""

import os
import shlex
import stat
from pathlib import Path

from prefillshare.errors import ConfigError

_OTHERS = 0o077
"""Bits of a file's mode by which others than its owner may use it."""


def read_private(path: Path, what: str) -> str:
    """Return the one line of a file that this user alone can read; `what` is its name for people.

    Raises: ConfigError.
    """
    try:
        found = path.stat()
        text = path.read_text(encoding="utf-8").strip() if stat.S_ISREG(found.st_mode) else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        fix = how_to_make(path) if isinstance(error, FileNotFoundError) else "write the key into it, one line"
        raise ConfigError(f"{what} {path} cannot be read ({reason}): {fix}") from None
    if problem := judge_private(found):
        raise ConfigError(f"{what} {path} {problem}: chown it to you and chmod 600 {path}")
    if not text or "\n" in text:
        raise ConfigError(f"{what} {path} does not hold one line: write the key into it, and nothing else")
    return text


def how_to_make(path: Path) -> str:
    """Return what to do where a file that holds a secret is not there."""
    made = f"(umask 077; openssl rand -hex 24 > {shlex.quote(str(path))})"
    return f"copy that of the other machines, or make it with `{made}`"


def judge_private(found: os.stat_result) -> str | None:
    """Return what is wrong with the owner or the mode of a file that holds a secret; None when nothing is."""
    if found.st_uid not in (os.getuid(), 0):
        return f"belongs to user {found.st_uid}, not to {os.getuid()}"
    if found.st_mode & _OTHERS:
        return f"can be used by others (mode {stat.S_IMODE(found.st_mode):o})"
    return None
