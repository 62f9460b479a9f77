"""What the supervisor of a worker tells the router of a move that it carries out, and where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from prefillshare.config.tables import build
from prefillshare.errors import ConfigError

ROLES_PATH = "/router/roles"
Word = Literal["begun", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReport:
    """What a supervisor says of a move; all of it each time, for a router that was started anew knows nothing of it."""

    id: str
    """The order."""
    worker: str
    """Worker that is moved."""
    before: str | None = None
    """Decode module that it held; None for a prefill worker."""
    after: str | None = None
    """Decode module that it is to hold; None for a prefill worker."""
    word: Word
    """How far it is; `begun` is repeated while it lasts."""
    seconds: float | None = None
    """How long it took."""
    message: str | None = None
    """Why it failed."""


def read_report(told: object) -> MoveReport:
    """Return what a JSON object says of a move; keys with null count as absent.

    Raises: ConfigError.
    """
    if not isinstance(told, Mapping):
        raise ConfigError(f"a report of a move must be a JSON object with id, worker and word ({_words()})")
    table = {key: value for key, value in cast(Mapping[str, Any], told).items() if value is not None}
    return build(MoveReport, table, "the report of a move")


def _words() -> str:
    return ", ".join(get_args(Word))
