"""How hard a system is driven."""

import random
from dataclasses import dataclass
from typing import Literal

from prefillshare.errors import BenchError

LoadKind = Literal["closed", "poisson", "timed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One level of load."""

    kind: LoadKind
    """`closed`: so many sessions at a time; `poisson`: so many arrive per second; `timed`: as the workload says."""
    value: float
    """Sessions at a time, sessions per second, or the factor by which a trace is played faster."""

    def __post_init__(self) -> None:
        if self.value <= 0 or (self.kind == "closed" and self.value != int(self.value)):
            raise BenchError(
                f"load {self.value:g} cannot be {self.kind}: give a positive number, a whole one for a closed loop"
            )

    @property
    def title(self) -> str:
        """For people."""
        unit = {"closed": "sessions at a time", "poisson": "sessions/s", "timed": "x the trace's speed"}[self.kind]
        return f"{self.value:g} {unit}"

    @property
    def key(self) -> str:
        """For file names."""
        return f"{self.kind}-{self.value:g}"


def poisson_arrivals(num_sessions: int, rate: float, seed: int) -> list[float]:
    """Arrival times in seconds: exponential gaps of mean 1/rate; another rate stretches the same pattern."""
    rng, now, arrivals = random.Random(f"{seed}/arrivals"), 0.0, []
    for _ in range(num_sessions):
        now += rng.expovariate(1.0) / rate
        arrivals.append(now)
    return arrivals
