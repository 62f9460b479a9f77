"""Whether answers of this worker go back to the store: the launcher says it, by environment variable."""

from __future__ import annotations

import json
import os
from typing import Any

from prefillshare.contract import WRITE_BACK_VARIABLE


def read_write_back() -> dict[str, Any] | None:
    """The store and the size of its pages; None on workers that write nothing back."""
    given = os.getenv(WRITE_BACK_VARIABLE)
    told: dict[str, Any] | None = json.loads(given) if given else None
    return told
