"""Where this user's files lie: logs, records, caches, sockets.

Works for users whom a container or a batch system gave no home, no name, or a temporary folder with a long path.
"""

import contextlib
import getpass
import os
import pwd
import tempfile
from pathlib import Path

from prefillshare.errors import ConfigError

_NAME = "prefillshare"
_STAND_IN = f"{_NAME}-home-{os.getuid()}"
"""Made with the user's number, so that the next command finds it again."""
MAX_FOLDER_BYTES = 48
"""Of the folder in which private folders are made.

A Unix socket's path has at most 107 bytes, and the longest that engines make below theirs is 54 bytes longer.
"""
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def state_directory() -> Path:
    """Where logs, records of running deployments and histories lie.

    Raises: ConfigError when there is no such place.
    """
    return _xdg("XDG_STATE_HOME", ".local/state") / _NAME


def cache_directory() -> Path:
    """Where things lie that can be made again.

    Raises: ConfigError when there is no such place.
    """
    return _xdg("XDG_CACHE_HOME", ".cache") / _NAME


def home_directory() -> Path:
    """The user's home; without one that can be written, a private folder among the temporary files.

    Raises: ConfigError when there is none either.
    """
    home = _named_home()
    return home if home is not None and can_be_written(home) else _stand_in()


def expand_home(path: Path) -> Path:
    """Return a path that people write, with a user's home for `~` or `~NAME`.

    Raises: ConfigError where nobody of that name is here.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(
            f"path {str(path)!r} begins with the home of a user who does not exist: write the whole path"
        ) from None


def is_stand_in(home: Path) -> bool:
    """Whether `home` is the private folder that stands in for a home."""
    return home.name == _STAND_IN


def missing_variables() -> dict[str, str]:
    """HOME and USER, where the environment lacks what libraries take for granted; mostly empty.

    Raises: ConfigError as `home_directory` does.
    """
    missing = {}
    named, home = _named_home(), home_directory()
    if Path(os.environ.get("HOME", "")) != home:
        missing["HOME"] = str(home)
        models = None if named is None else named / ".cache" / "huggingface"
        is_named = "HF_HOME" in os.environ or "XDG_CACHE_HOME" in os.environ
        if models is not None and not is_named and os.access(models, os.R_OK):
            missing["HF_HOME"] = str(models)  # what was downloaded before is still read there
    try:
        getpass.getuser()
    except (KeyError, OSError):
        missing["USER"] = f"uid-{os.getuid()}"
    return missing


def can_be_written(folder: Path) -> bool:
    """Whether this user can write into `folder`, or make it."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def temporary_folder() -> Path:
    """Where temporary files go.

    Raises: ConfigError when there is no such place.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise ConfigError(
            "no folder for temporary files can be written (TMPDIR, /tmp, /var/tmp): set TMPDIR to one"
        ) from None


def socket_folder() -> Path:
    """A folder whose path is short enough for private folders with Unix sockets: the temporary one, if it can be.

    Raises: ConfigError when there is none.
    """
    tried = dict.fromkeys((str(temporary_folder()), os.environ.get("XDG_RUNTIME_DIR", ""), *_SHORT_FOLDERS))
    for folder in filter(os.path.isabs, tried):
        # ZeroMQ takes addresses as text.
        fits = len(os.fsencode(folder)) <= MAX_FOLDER_BYTES and folder.isprintable()
        if fits and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    raise ConfigError(
        f"no folder with a path of at most {MAX_FOLDER_BYTES} bytes of plain text can be written (tried "
        f"{', '.join(filter(None, tried))}): sockets need one, set TMPDIR to it"
    )


def new_private_folder() -> Path:
    """A new folder that only this user can read, for sockets and keys; the caller removes it.

    Raises: ConfigError when there is no place for it.
    """
    parent = socket_folder()
    try:
        return Path(tempfile.mkdtemp(prefix=f"{_NAME}-", dir=parent))
    except OSError as error:
        raise ConfigError(f"no folder can be made in {parent} ({error.strerror}): set TMPDIR to another") from None


def _xdg(variable: str, below_home: str) -> Path:
    named = Path(os.environ.get(variable, ""))
    # The standard says to ignore a relative path.
    return named if named.is_absolute() else home_directory() / below_home


def _named_home() -> Path | None:
    if os.path.isabs(named := os.environ.get("HOME", "")):
        return Path(named)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _stand_in() -> Path:
    folder = temporary_folder() / _STAND_IN
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not folder.is_dir() or folder.is_symlink():
        raise ConfigError(f"there is no home to write into, and {folder} is not this user's alone: set HOME")
    return folder
