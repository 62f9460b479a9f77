"""What a deployment consists of on a cluster: groups of equal members, each with a name and a revision.

Pure: nothing here asks Ray, and all of it travels to the nodes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from prefillshare.config import Cluster, DecodeModule, Deployment
from prefillshare.config.cluster import Spot
from prefillshare.errors import ConfigError

MemberRole = Literal["router", "prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every member of a deployment must know."""

    config: Deployment
    """The deployment file; its paths are the same on every node."""
    fingerprint: str
    """Of the prefill module, which each node compares with that of its own files."""
    digests: Mapping[str, str]
    """Of each decode module's weights, compared likewise."""
    version: str
    """Of PrefillShare, the same on every node."""
    port: int
    """Port of the first router."""
    number: int = 0
    """Which launch of the running deployment made it: of several that members have, the last one counts."""

    @property
    def cluster(self) -> Cluster:
        """Where it runs."""
        return self.config.cluster or Cluster()

    @property
    def router_ports(self) -> range:
        """Where clients look for the routers, on whichever node they are."""
        return range(self.port, self.port + self.cluster.router.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Members that do the same."""

    role: MemberRole
    """What they do."""
    module: str | None = None
    """The decode module that they hold."""

    @property
    def label(self) -> str:
        """What people call it, and `scale` takes: a role or a module."""
        return self.module or self.role

    def member_name(self, number: int) -> str:
        """Return what people call one of them."""
        return "-".join(filter(None, (self.role, self.module, str(number))))

    def has(self, name: str) -> bool:
        """Whether a member of that name is of this group; names of modules may begin alike."""
        beginning = self.member_name(0).removesuffix("0")
        return name.startswith(beginning) and name.removeprefix(beginning).isdigit()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One worker or router, which one actor runs."""

    group: Group
    """What it does."""
    number: int
    """Which of its group it is: the lowest that was free."""
    plan: Plan
    """Its deployment."""
    begins_as: Group | None = None
    """What it does first where that is not what its name says: it takes the place of one whose role had changed."""

    @property
    def name(self) -> str:
        """What people call it, and the name of its actor."""
        return self.group.member_name(self.number)

    @property
    def spot(self) -> Spot:
        """Nodes that it may run on."""
        return spot_of(self.plan, self.group.role)

    @property
    def revision(self) -> str:
        """Changes with what it serves and how; members of another one are replaced."""
        return revision_of(self.plan, self.group)


def spot_of(plan: Plan, role: MemberRole) -> Spot:
    """Return where members of a role may run."""
    spots: dict[MemberRole, Spot] = {
        "router": plan.cluster.router,
        "prefill": plan.cluster.prefill,
        "decode": plan.cluster.decode,
    }
    return spots[role]


def wanted_sizes(plan: Plan) -> dict[Group, int]:
    """Return how many members each group has by the deployment file, in the order of the start."""
    config = plan.config
    modules = {Group(role="decode", module=module.name): module.replicas for module in config.decode}
    routers, prefill = plan.cluster.router.replicas, config.prefill.workers
    return {Group(role="router"): routers, Group(role="prefill"): prefill, **modules}


def revision_of(plan: Plan, group: Group) -> str:
    """Return a hash of all that decides what a member of `group` serves, and how.

    How many there are and where they run decides nothing, so that scaling and other nodes replace nobody. A worker
    whose role follows the load may come to serve whatever is new, with what it was made from.
    """
    config = plan.config
    served: dict[str, object] = {"fingerprint": plan.fingerprint, "version": plan.version}
    if group.role == "router":
        of_routers = (config.router, config.roles, config.responses, config.tenants, config.otlp_endpoint)
        served["router"] = repr((of_routers, sorted(config.aliases.items())))
    elif config.roles.follow_load:
        workers = [other for other in wanted_sizes(plan) if other.role != "router"]
        served["any"] = {other.label: _describe_worker(plan, other) for other in workers}
    else:
        served |= _describe_worker(plan, group)
    return hashlib.sha256(json.dumps(served, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _describe_worker(plan: Plan, group: Group) -> dict[str, object]:
    config = plan.config
    served: dict[str, object] = {
        "engine": dataclasses.asdict(config.engine_of(_find_role(config, group), group.module)),
        "transfer": dataclasses.asdict(config.transfer),
        "store": config.store and dataclasses.asdict(config.store),
        "eager": (config.prefill.eager_answers, config.prefill.eager_min_tokens),
    }
    if group.module is not None:
        served |= {"digest": plan.digests[group.module], "kind": _find_kind(config, group.module)}
    return served


def next_members(
    plan: Plan, group: Group, taken: Iterable[int], count: int, *, begins_as: Group | None = None
) -> list[Member]:
    """Return `count` further members of a group, with the lowest numbers that nobody has."""
    members: list[Member] = []
    used, number = set(taken), 0
    while len(members) < count:
        if number not in used:
            members.append(Member(group=group, number=number, plan=plan, begins_as=begins_as))
        number += 1
    return members


def find_group(plan: Plan, label: str) -> Group:
    """Return the group that people call `label`.

    Raises: ConfigError with the labels that there are.
    """
    groups = {group.label: group for group in wanted_sizes(plan)}
    if label not in groups:
        raise ConfigError(f"{plan.config.name} has no {label!r} to scale: name one of {', '.join(groups)}")
    return groups[label]


def needed_part(plan: Plan, group: Group) -> Deployment:
    """Return the deployment with no more than a member of `group` needs on its node.

    Only a decode worker of a module merges its adapter into a checkpoint; others merely check the adapters. A worker
    whose role follows the load needs whatever it may become.
    """
    decode = plan.config.decode
    if group.role != "router" and plan.config.roles.follow_load:
        return plan.config
    if group.module is not None:
        return replace(plan.config, decode=tuple(module for module in decode if module.name == group.module))
    return unmerged(plan.config)


def unmerged(config: Deployment) -> Deployment:
    """Return the deployment with adapters where it has checkpoints that are merged out of them."""
    decode = tuple(replace(module, kind="lora", merge=False) if module.merge else module for module in config.decode)
    return replace(config, decode=decode)


def _find_role(config: Deployment, group: Group) -> str:
    """What members of a group are; of a decode module, that depends on whether it shares its prompts."""
    return group.role if group.module is None else _find_module(config, group.module).worker_role


def _find_module(config: Deployment, name: str) -> DecodeModule:
    """Return the decode module of that name."""
    (module,) = [module for module in config.decode if module.name == name]
    return module


def _find_kind(config: Deployment, name: str) -> tuple[str, bool, bool]:
    module = _find_module(config, name)
    return module.kind, module.merge, module.share
