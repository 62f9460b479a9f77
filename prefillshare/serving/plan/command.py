"""The command of one process: what is run, with which variables."""

import itertools
import shlex
import sys
from dataclasses import dataclass

from prefillshare.errors import ConfigError

ENGINE_PROGRAM = (sys.executable, "-m", "sglang.launch_server")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCommand:
    """What to run: an engine, a worker or the router."""

    argv: tuple[str, ...]
    """Program and arguments, without the API key, which everybody on the machine could read there."""
    environment: dict[str, str]
    """Variables to set on top of the caller's."""
    api_key: str | None = None
    """Key that clients of an engine must send; None for an open server."""
    admin_key: str | None = None
    """Key that an engine wants for changes; None lets whoever may call make them."""
    peer_secret: str | None = None
    """What it proves to the other parts of its deployment that it is one; it gets it in a private file."""

    def __post_init__(self) -> None:
        for word in self.arguments:
            if not _is_text(word):
                raise ConfigError(f"{word!a} holds bytes that are no UTF-8, which SGLang cannot open: rename it")

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments without the program, as its parser takes them."""
        return self.argv[len(ENGINE_PROGRAM) :]

    @property
    def can_be_forked(self) -> bool:
        """Whether it may be forked from a process that imported SGLang: a CUDA context does not survive a fork."""
        return ("--device", "cpu") in itertools.pairwise(self.argv)

    def as_shell(self) -> str:
        """Return a line that does the same when pasted into a shell; the API key is left to its variable."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        words += [shlex.quote(word) for word in self.argv]
        words += ['--api-key "$PREFILLSHARE_API_KEY"'] if self.api_key else []
        words += ['--admin-api-key "$PREFILLSHARE_ADMIN_KEY"'] if self.admin_key else []
        return " ".join(words)


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
