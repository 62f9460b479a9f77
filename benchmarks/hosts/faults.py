"""What is done to a deployment whose parts an init system starts, one after the other."""

import time
from collections.abc import Callable, Sequence

import psutil

from benchmarks.hosts.deployment import HostedDeployment, Part
from benchmarks.hosts.trial import Fault
from benchmarks.hosts.watched import is_engine, is_program

_UNPLUGGED_S = 2.0
_OFF_S = 30.0

Strike = Callable[[HostedDeployment], Sequence[str]]


def start_again(deployment: HostedDeployment, names: Sequence[str]) -> None:
    """Start commands as at first."""
    for name in names:
        deployment.parts[name].leave()
        deployment.parts[name].start()


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
    [router] = [child for child in children if is_program(child, "prefillshare.routing")]
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
    found = [process for process in part.supervisor().children(recursive=True) if is_engine(process)]
    if not found:
        raise LookupError(f"{part.name} has no engine now")
    return found[0]


FAULTS = (
    Fault(name="kill -9 decode engine", strike=kill_engine("decode"), revive=start_again),
    Fault(name="kill -9 prefill engine", strike=kill_engine("prefill"), revive=start_again),
    Fault(name="kill -9 `prefillshare worker`, decode", strike=kill_worker_command("decode"), revive=start_again),
    Fault(name="kill -9 `prefillshare worker`, prefill", strike=kill_worker_command("prefill"), revive=start_again),
    Fault(name="kill -9 router", strike=kill_router, revive=start_again),
    Fault(name="kill -9 `prefillshare router`", strike=kill_router_command, revive=start_again),
    Fault(name="power off a host: cable, then all", strike=power_off, revive=power_on),
)
