"""One thing that happens to a deployment under load, and what came of it."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from benchmarks.hosts.load import End, Load, Outcome, Question
from benchmarks.hosts.watched import START_S, Watched

_BEFORE_S = 15.0
_AFTER_S = 5.0
_SETTLE_S = 20.0
_NUM_CLIENTS = 3

D = TypeVar("D", bound=Watched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Generic[D]):
    """One thing that happens, to the worker with the most calls where there is a choice."""

    name: str
    """For the table."""
    strike: Callable[[D], Sequence[str]]
    """Does it; returns the names of what ended and what nobody of ours starts again."""
    revive: Callable[[D, Sequence[str]], None]
    """Brings that back, as an init system does, or a person."""
    settle: Callable[[D], None] = lambda deployment: None
    """What comes when all workers are up again, while calls go on."""
    within_s: float = START_S
    """Longest wait for all workers to be up again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a fault."""

    name: str
    """Of the fault."""
    ends: Mapping[End, int]
    """Calls that ended after the fault, until all workers were up again and a little longer, by how they ended."""
    why: tuple[str, ...]
    """Why calls failed."""
    recovery_s: float
    """Until the router sent calls to every worker again."""
    p95_before_s: float
    """Of right answers before the fault."""
    p95_after_s: float
    """Of right answers since."""
    num_orphans: int
    """Processes on hosts that no command looks after, at the end."""
    num_doubled: int
    """Engines more than there are workers, at the end."""


def try_fault(deployment: D, fault: Fault[D], questions: Sequence[Question]) -> Result:
    """Ask, let it happen, and ask on until all is well again."""
    with Load(deployment.url, questions, _NUM_CLIENTS) as load:
        time.sleep(_BEFORE_S)
        struck = time.monotonic()
        fault.revive(deployment, fault.strike(deployment))
        deployment.wait(lambda: not deployment.is_whole() or time.monotonic() - struck > _SETTLE_S, "it is noticed")
        deployment.wait(deployment.is_whole, "all workers are up again", fault.within_s)
        recovery_s = time.monotonic() - struck
        fault.settle(deployment)
        time.sleep(_AFTER_S)
    before, after = _split(load.outcomes, struck)
    return Result(
        name=fault.name,
        ends=Counter(outcome.end for outcome in after),
        why=tuple(dict.fromkeys(outcome.what for outcome in after if outcome.end != "right")),
        recovery_s=recovery_s,
        p95_before_s=_p95(before),
        p95_after_s=_p95(after),
        num_orphans=deployment.count_orphans(),
        num_doubled=deployment.count_doubled(),
    )


def _split(outcomes: Sequence[Outcome], at_s: float) -> tuple[list[Outcome], list[Outcome]]:
    ended_before = [outcome for outcome in outcomes if outcome.started_s + outcome.duration_s < at_s]
    return ended_before, [outcome for outcome in outcomes if outcome not in ended_before]


def _p95(outcomes: Sequence[Outcome]) -> float:
    durations = sorted(outcome.duration_s for outcome in outcomes if outcome.end == "right")
    return durations[int(0.95 * (len(durations) - 1))] if durations else float("nan")
