"""What one check of this machine found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    name: str
    """What was looked at."""
    state: State
    """`problem`: serving will not work; `warning`: it will, with a limit."""
    value: str
    """What was found."""
    fix: str | None = None
    """What to do, unless all is well."""
