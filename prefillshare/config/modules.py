"""The `[modules]` table of a deployment file: decode modules that come while it serves."""

from dataclasses import dataclass
from pathlib import Path

from prefillshare.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """Where modules come from by themselves, and the room for adapters that are not in the file."""

    dir: Path | None = None
    """Folder that is watched: each folder in it is a decode module of that name, for as long as it is there."""
    max_rank: int | None = None
    """Largest rank of an adapter that can be added; None is the largest of the file's."""
    targets: tuple[str, ...] = ()
    """Layers that an added adapter may change, such as q_proj, beside those of the file's adapters."""
    slots: int | None = None
    """Adapters that one batch may hold; calls of others wait for the next. None is as many as the file has."""

    def __post_init__(self) -> None:
        for name in ("max_rank", "slots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}: it must be at least 1")
