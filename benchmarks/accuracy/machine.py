"""Where and when an accuracy was measured."""

import os
import platform
from datetime import date
from typing import Any

import torch


def describe_machine() -> dict[str, Any]:
    """Return what is kept with a result: the day, the processor, its threads, and the libraries."""
    return {
        "date": date.today().isoformat(),
        "architecture": platform.machine(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
