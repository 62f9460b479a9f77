"""The nodes of a cluster: which of them a member may run on, where it would go, and what it waits for. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from prefillshare.cluster.plan import Member, Plan, next_members, wanted_sizes
from prefillshare.cluster.status import MemberStatus
from prefillshare.config.cluster import Spot

_OWN_LABELS = "ray.io/"
"""Begins the names of labels that Ray gives nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node that is up."""

    id: str
    """By what Ray knows it."""
    name: str
    """Its host name."""
    labels: Mapping[str, str]
    """What `ray start --labels` gave it, and Ray itself."""
    gpus: float
    """GPUs that it has."""
    cpus: float
    """CPUs that it has, as Ray counts them."""
    free_gpus: float
    """GPUs that nobody has taken."""
    free_cpus: float
    """CPUs that nobody has taken."""

    def has_labels(self, wanted: Mapping[str, str]) -> bool:
        """Whether it meets all conditions; one that excludes values is met without the label, too."""
        return all(_meets(self.labels.get(label), condition) for label, condition in wanted.items())

    def could_hold(self, spot: Spot) -> bool:
        """Whether one member would fit if nobody else were here."""
        return self.gpus >= spot.gpus and self.cpus >= spot.cpus

    def has_room(self, spot: Spot) -> bool:
        """Whether one member fits beside those that are here."""
        return self.free_gpus >= spot.gpus and self.free_cpus >= spot.cpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one member is, or would go."""

    member: Member
    """Who it is."""
    node: str | None = None
    """Host name of the node; None where none takes it."""
    is_there: bool = False
    """Whether it is there already."""
    reason: str = ""
    """Why no node takes it."""


def _meets(value: str | None, condition: str) -> bool:
    is_excluded, condition = condition.startswith("!"), condition.removeprefix("!")
    values = condition.removeprefix("in(").removesuffix(")").split(",") if condition.startswith("in(") else [condition]
    return (value in [each.strip() for each in values]) != is_excluded


def explain_waiting(spot: Spot, nodes: Sequence[Node]) -> str:
    """Return what a member that no node has taken waits for: a label, GPUs or CPUs, or its own start."""
    labelled = [node for node in nodes if node.has_labels(spot.labels)]
    where, need = f"with {_write_labels(spot.labels)}" if spot.labels else "of the cluster", _write_need(spot)
    if not labelled:
        return (
            f"no node has {_write_labels(spot.labels)} (there are: {_write_known_labels(nodes)}): start one with "
            "`ray start --labels`, or correct labels under [cluster]"
        )
    if not any(node.could_hold(spot) for node in labelled):
        return f"no node {where} has {need} at all ({_write_sizes(labelled)}): add one, or ask for less under [cluster]"
    if not any(node.has_room(spot) for node in labelled):
        return f"no node {where} has {need} free ({_write_free(labelled)}): end something there, or add a node"
    return f"there is room for it on {_write_names(node for node in labelled if node.has_room(spot))}: it comes up"


def place_members(plan: Plan, nodes: Iterable[Node], known: Sequence[MemberStatus]) -> list[Placement]:
    """Return where the members of a deployment would go, or already are, in the order of the start.

    Ray decides in the end: of nodes that are equally good it may take another one.
    """
    left = {node.id: node for node in nodes}
    placements: list[Placement] = []
    for group, size in wanted_sizes(plan).items():
        there = [status for status in known if group.has(status.name)]
        taken = Counter(status.node_id for status in there)
        placements += [_stay(Member(group=group, number=status.number, plan=plan), status) for status in there]
        for member in next_members(plan, group, [status.number for status in there], size - len(there)):
            placements.append(_place(member, left, taken))
    return placements


def list_members(plan: Plan) -> list[Placement]:
    """Return all members that a deployment is to have, of which it is not known where they go."""
    sizes = wanted_sizes(plan).items()
    return [Placement(member=member) for group, size in sizes for member in next_members(plan, group, (), size)]


def _stay(member: Member, status: MemberStatus) -> Placement:
    return Placement(member=member, node=status.node or None, is_there=True, reason=status.reason or "")


def _place(member: Member, left: dict[str, Node], taken: Counter[str]) -> Placement:
    """Take the room of a member from the node that Ray would choose."""
    spot = member.spot
    fitting = [node for node in left.values() if node.has_labels(spot.labels) and node.has_room(spot)]
    if not fitting:
        return Placement(member=member, reason=explain_waiting(spot, list(left.values())))
    chosen = min(fitting, key=lambda node: (taken[node.id], -node.free_cpus) if spot.spread else (0, node.free_cpus))
    taken[chosen.id] += 1
    left[chosen.id] = replace(chosen, free_gpus=chosen.free_gpus - spot.gpus, free_cpus=chosen.free_cpus - spot.cpus)
    return Placement(member=member, node=chosen.name)


def _write_labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _write_known_labels(nodes: Sequence[Node]) -> str:
    found = [{name: text for name, text in node.labels.items() if not name.startswith(_OWN_LABELS)} for node in nodes]
    return "; ".join(sorted({_write_labels(labels) or "one without labels" for labels in found})) or "no nodes"


def _write_need(spot: Spot) -> str:
    return " and ".join(_count(number, unit) for number, unit in ((spot.gpus, "GPU"), (spot.cpus, "CPU")) if number)


def _write_sizes(nodes: Sequence[Node]) -> str:
    return "; ".join(f"{node.name} has {_count(node.gpus, 'GPU')} and {_count(node.cpus, 'CPU')}" for node in nodes)


def _write_free(nodes: Sequence[Node]) -> str:
    return "; ".join(
        f"{node.name}: {node.free_gpus:g} of {_count(node.gpus, 'GPU')}, {node.free_cpus:g} of "
        f"{_count(node.cpus, 'CPU')}"
        for node in nodes
    )


def _write_names(nodes: Iterable[Node]) -> str:
    return ", ".join(sorted({node.name for node in nodes}))


def _count(number: float, unit: str) -> str:
    return f"{number:g} {unit}" if number == 1 else f"{number:g} {unit}s"
