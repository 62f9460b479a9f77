"""What is done to a deployment on a Ray cluster, one after the other.

A host that is cut off goes on by itself: its workers believe that they are the ones. When the cable is back, Ray has
started others of their names elsewhere, or is about to.
"""

from collections.abc import Sequence

from benchmarks.hosts.machines import Host
from benchmarks.hosts.on_ray import COMMAND_S, RayDeployment
from benchmarks.hosts.trial import Fault
from benchmarks.hosts.watched import find_engines

_RAYLET = "raylet"
NOTICED_S = 300.0
"""Ray takes about a minute to give a node up, and as long for one that comes back."""


def kill_node(deployment: RayDeployment) -> Sequence[str]:
    """Kill Ray's own process on a host."""
    host = _choose(deployment)
    [raylet] = [process for process in host.processes() if process.name() == _RAYLET]
    raylet.kill()
    return [host.name]


def cut_until_replaced(deployment: RayDeployment) -> Sequence[str]:
    """Cut the cable of a host, and put it back when all of its workers serve elsewhere."""
    host = _choose(deployment)
    host.unplug()
    deployment.wait(lambda: not deployment.is_whole(), "the router notices")
    deployment.wait(lambda: _has_none(deployment, host), "they serve elsewhere", NOTICED_S + COMMAND_S)
    host.plug()
    return [host.name]


def cut_until_replacing(deployment: RayDeployment) -> Sequence[str]:
    """Cut the cable of a host, and put it back when Ray starts its workers elsewhere, which do not serve yet."""
    host = _choose(deployment)
    others = [other for other in deployment.hosts if other is not host]
    before = sum(len(find_engines(other)) for other in others)
    host.unplug()
    deployment.wait(
        lambda: sum(len(find_engines(other)) for other in others) > before, "others are started", NOTICED_S + COMMAND_S
    )
    host.plug()
    return [host.name]


def power_off(deployment: RayDeployment) -> Sequence[str]:
    """Cut the cable of a host, then end all that runs there."""
    host = _choose(deployment)
    host.unplug()
    host.power_off()
    return [host.name]


def power_on(deployment: RayDeployment, names: Sequence[str]) -> None:
    """Bring a host back when all of its workers serve elsewhere."""
    host = deployment.places[names[0]]
    deployment.wait(lambda: not deployment.is_whole(), "the router notices")
    deployment.wait(lambda: _has_none(deployment, host), "they serve elsewhere", NOTICED_S + COMMAND_S)
    host.power_on()
    _start_node_again(deployment, host)


def join_again(deployment: RayDeployment, names: Sequence[str]) -> None:
    """Wait until nothing of the node is left, and start it, as an init system does."""
    host = deployment.places[names[0]]
    deployment.wait(lambda: deployment.nodes[host.name].poll() is not None, "the node ends by itself", NOTICED_S)
    deployment.wait(lambda: not host.processes(), f"nothing is left on {host.name}", NOTICED_S)
    _start_node_again(deployment, host)


def _start_node_again(deployment: RayDeployment, host: Host) -> None:
    deployment.nodes[host.name].kill()
    deployment.nodes[host.name].wait()
    deployment.start_node(host)


def _choose(deployment: RayDeployment) -> Host:
    """The host of the decode worker with the most calls."""
    return deployment.host_of(deployment.busiest("decode"))


def _has_none(deployment: RayDeployment, host: Host) -> bool:
    """Whether all workers are up, and none of them on this host."""
    told = deployment.describe_workers()
    return deployment.is_whole() and not any(f"//{host.address}:" in worker["url"] for worker in told.values())


FAULTS = tuple(
    Fault(name=name, strike=strike, revive=revive, settle=RayDeployment.spread, within_s=NOTICED_S + COMMAND_S)
    for name, strike, revive in (
        ("Ray: kill -9 raylet of a host", kill_node, join_again),
        ("Ray: cable of a host cut, back when its workers are replaced", cut_until_replaced, join_again),
        ("Ray: the same, back while they are being replaced", cut_until_replacing, join_again),
        ("Ray: power off a host: cable, then all", power_off, power_on),
    )
)
