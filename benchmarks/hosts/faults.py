"""What is done to a deployment on hosts, one after the other under load, and what came of it."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from benchmarks.hosts.deployment import HostedDeployment, Part
from benchmarks.hosts.load import End, Load, Outcome, Question
from benchmarks.hosts.machines import Host

_BEFORE_S = 15.0
_AFTER_S = 5.0
_SETTLE_S = 20.0
_UNPLUGGED_S = 2.0
_OFF_S = 30.0
_NUM_CLIENTS = 3
_FORKED = "sglang_patches.forkserver"


Strike = Callable[[HostedDeployment], Sequence[str]]
"""Lets something happen; returns the names of the commands that ended and that nobody of ours starts again."""
Revive = Callable[[HostedDeployment, Sequence[str]], None]
"""What an init system does about commands that ended, or a person."""


def start_again(deployment: HostedDeployment, names: Sequence[str]) -> None:
    """Start commands as at first."""
    for name in names:
        deployment.parts[name].leave()
        deployment.parts[name].start()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that happens, to the worker with the most calls where there is a choice."""

    name: str
    """For the table."""
    strike: Strike
    """Does it."""
    revive: Revive = start_again
    """Brings back what our own supervisors do not."""


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


def try_fault(deployment: HostedDeployment, fault: Fault, questions: Sequence[Question]) -> Result:
    """Ask, let it happen, and ask on until all is well again."""
    with Load(deployment.url, questions, _NUM_CLIENTS) as load:
        time.sleep(_BEFORE_S)
        struck = time.monotonic()
        fault.revive(deployment, fault.strike(deployment))
        deployment.wait(lambda: not deployment.is_whole() or time.monotonic() - struck > _SETTLE_S, "it is noticed")
        deployment.wait(deployment.is_whole, "all workers are up again")
        recovery_s = time.monotonic() - struck
        time.sleep(_AFTER_S)
    before, after = _split(load.outcomes, struck)
    return Result(
        name=fault.name,
        ends=Counter(outcome.end for outcome in after),
        why=tuple(dict.fromkeys(outcome.what for outcome in after if outcome.end != "right")),
        recovery_s=recovery_s,
        p95_before_s=_p95(before),
        p95_after_s=_p95(after),
        num_orphans=sum(len(find_orphans(deployment, host)) for host in _hosts(deployment)),
        num_doubled=sum(count_doubled(deployment, host) for host in _hosts(deployment)),
    )


def kill_engine(role: str) -> Strike:
    """Return a fault: the first process of a worker's engine is killed."""

    def strike(deployment: HostedDeployment) -> Sequence[str]:
        engine_of(deployment.parts[deployment.busiest(role)]).kill()
        return ()

    return strike


def kill_worker_command(role: str) -> Strike:
    """Return a fault: the command of a worker is killed, and cannot end what it started."""

    def strike(deployment: HostedDeployment) -> Sequence[str]:
        name = deployment.busiest(role)
        deployment.parts[name].supervisor().kill()
        return [name]

    return strike


def kill_router(deployment: HostedDeployment) -> Sequence[str]:
    """Kill the router, but not the command that looks after it."""
    children = deployment.parts["router"].supervisor().children()
    [router] = [child for child in children if "prefillshare.routing" in child.cmdline()]
    router.kill()
    return ()


def kill_router_command(deployment: HostedDeployment) -> Sequence[str]:
    """Kill the command, which cannot end the router."""
    deployment.parts["router"].supervisor().kill()
    return ["router"]


def power_off(deployment: HostedDeployment) -> Sequence[str]:
    """Cut the cable of a host, then end all that runs there."""
    host = deployment.parts[deployment.busiest("decode")].host
    host.unplug()
    time.sleep(_UNPLUGGED_S)
    host.power_off()
    return [part.name for part in deployment.parts.values() if part.host is host]


def power_on(deployment: HostedDeployment, names: Sequence[str]) -> None:
    """Bring the host back when the router has forgotten its workers, and start what ran there."""
    time.sleep(_OFF_S)
    deployment.parts[names[0]].host.power_on()
    start_again(deployment, names)


def engine_of(part: Part) -> psutil.Process:
    """Return the first process of the worker's engine.

    Raises: LookupError when none runs.
    """
    found = [process for process in part.supervisor().children(recursive=True) if _is_engine(process)]
    if not found:
        raise LookupError(f"{part.name} has no engine now")
    return found[0]


def find_orphans(deployment: HostedDeployment, host: Host) -> list[psutil.Process]:
    """Return processes on the host that no command of the deployment looks after."""
    kept = set()
    for part in deployment.parts.values():
        if part.host is host:
            supervisor = part.supervisor()
            kept |= {supervisor, *supervisor.children(recursive=True)}
    return [process for process in host.processes() if process not in kept]


def count_doubled(deployment: HostedDeployment, host: Host) -> int:
    """Return how many engines the host has beyond one for each of its workers."""
    num_workers = sum(part.host is host and part.name != "router" for part in deployment.parts.values())
    return max(0, sum(map(_is_engine, host.processes())) - num_workers)


def _is_engine(process: psutil.Process) -> bool:
    """Whether it is an engine's first process: the leader of a group, made by a fork server, which is one itself."""
    try:
        is_leader = os.getpgid(process.pid) == process.pid and _FORKED in process.cmdline()
        parent = process.parent()
        return is_leader and (parent is None or "prefillshare" not in parent.cmdline())
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


def _hosts(deployment: HostedDeployment) -> list[Host]:
    hosts = [part.host for part in deployment.parts.values()]
    return [host for number, host in enumerate(hosts) if host not in hosts[:number]]


def _split(outcomes: Sequence[Outcome], at_s: float) -> tuple[list[Outcome], list[Outcome]]:
    ended_before = [outcome for outcome in outcomes if outcome.started_s + outcome.duration_s < at_s]
    return ended_before, [outcome for outcome in outcomes if outcome not in ended_before]


def _p95(outcomes: Sequence[Outcome]) -> float:
    durations = sorted(outcome.duration_s for outcome in outcomes if outcome.end == "right")
    return durations[int(0.95 * (len(durations) - 1))] if durations else float("nan")
