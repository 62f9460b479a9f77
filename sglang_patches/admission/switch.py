"""Whether calls of new sessions wait for memory: the launcher says it, by environment variable."""

from __future__ import annotations

import os

from prefillshare.contract import ADMISSION_VARIABLE


def read_longest_wait_s() -> float | None:
    """After how many seconds a call is taken whatever it costs; None where nobody waits."""
    given = os.getenv(ADMISSION_VARIABLE)
    return float(given) if given else None
