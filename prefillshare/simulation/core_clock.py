"""Core seconds of a deployment on this machine: of its prefill engines, its decode engines, and all else of it.

The kernel counts them to the nanosecond, process by process, whatever else the machine does.
"""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from prefillshare.accelerators import gpus
from prefillshare.errors import SimulationError
from prefillshare.serving.run.record import ProcessRecord, read_records

_SCHEDULER = "sglang::scheduler"
"""What SGLang calls the process that computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSeconds:
    """Core seconds since some moment, or per call."""

    prefill: float = 0.0
    """Prefill engines."""
    decode: float = 0.0
    """Decode engines."""
    rest: float = 0.0
    """HTTP, tokenizers, router and the caller: this process."""

    def __sub__(self, other: "CoreSeconds") -> "CoreSeconds":
        return CoreSeconds(
            prefill=self.prefill - other.prefill, decode=self.decode - other.decode, rest=self.rest - other.rest
        )

    def per(self, number: float) -> "CoreSeconds":
        """One of `number` equal parts."""
        return CoreSeconds(prefill=self.prefill / number, decode=self.decode / number, rest=self.rest / number)

    @property
    def total(self) -> float:
        """All of them."""
        return self.prefill + self.decode + self.rest


def median_core_seconds(values: Sequence[CoreSeconds]) -> CoreSeconds:
    """Return the median of each part."""
    return CoreSeconds(
        prefill=statistics.median(value.prefill for value in values),
        decode=statistics.median(value.decode for value in values),
        rest=statistics.median(value.rest for value in values),
    )


class CoreClock:
    """Reads the core seconds of the processes that were there when it was made."""

    def __init__(self, processes: Sequence[ProcessRecord]) -> None:
        """Find them.

        Raises: SimulationError when a worker has no process that computes: what it does would count as others' work.
        """
        self._pids: dict[str, list[int]] = {"prefill": [], "decode": [], "rest": [os.getpid()]}
        for record in processes:
            if record.pid is None:
                continue
            for process in (parent := psutil.Process(record.pid), *parent.children(recursive=True)):
                is_engine = " ".join(process.cmdline()).startswith(_SCHEDULER)
                self._pids[record.role if is_engine and record.role in self._pids else "rest"].append(process.pid)
            if record.role in self._pids and not self._pids[record.role]:
                raise SimulationError(
                    f"{record.name} has no process with the name {_SCHEDULER}, so what it computes cannot be told from "
                    "all else: end the deployment and launch it anew"
                )

    def read(self) -> CoreSeconds:
        """Return how long they have been computing.

        Raises: SimulationError when one of them has ended.
        """
        try:
            return CoreSeconds(**{part: sum(map(_core_s, pids)) for part, pids in self._pids.items()})
        except OSError:
            raise SimulationError(
                "a process of the deployment has ended while it was measured: see `prefillshare ps`, and measure again"
            ) from None


def find_core_clock(url: str) -> CoreClock | None:
    """Return a clock of the deployment at `url`; None when this user runs none there, or where engines have GPUs."""
    if gpus():
        return None
    found = [record for record in read_records() if record.url.rstrip("/") == url.rstrip("/")]
    return CoreClock(found[0].processes) if found else None


def _core_s(pid: int) -> float:
    # Linux: the clock of a process's core time has this number (clock_getcpuclockid(3), which Python lacks).
    return time.clock_gettime((~pid << 3) | 2)
