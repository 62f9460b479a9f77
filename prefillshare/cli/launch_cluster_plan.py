"""`prefillshare launch --dry-run` of a deployment that goes to a cluster: which node would get what."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from prefillshare.cli.launch_memory_table import memory_table
from prefillshare.cli.launch_plan import put_settings, settings_as_rows
from prefillshare.cli.output import put_comment_table, put_json, put_table, say, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefillshare.accelerators import Gpu
    from prefillshare.cluster.nodes import Placement
    from prefillshare.cluster.plan import Plan
    from prefillshare.config import Deployment
    from prefillshare.serving.plan.budget import Budget

_HEADER = ("process", "node", "labels", "GPUs", "CPUs", "already there")


def plan_on_cluster(
    config: "Deployment", address: str, port: int, cards: "Sequence[Gpu] | None", *, as_json: bool
) -> None:
    """Check the file, and print where its members would go; `cards` are what a GPU of the nodes is taken for.

    Raises: ConfigError for what cannot be served, and when nodes that answer have no room for somebody.
    """
    from prefillshare.cluster.prepare import prepare

    plan, deployment = prepare(config, port)
    for text in deployment.warnings:
        warn(text)
    placements, is_reachable = _place(plan, address)
    budgets = _plan_memory(plan, cards)
    if as_json:
        memory = [asdict(budget) for budget in budgets]
        members = [_as_dict(each) for each in placements]
        settings = settings_as_rows(config)
        put_json({"settings": settings, "members": members, "is_reachable": is_reachable, "memory": memory})
    else:
        put_settings(config)
        if budgets:
            put_comment_table(*memory_table(budgets))
        put_table(_HEADER, [_row(placement) for placement in placements])
    _check_all_placed(placements, is_reachable)


def _place(plan: "Plan", address: str) -> "tuple[list[Placement], bool]":
    from prefillshare.cli.cluster_options import connected
    from prefillshare.cluster.nodes import list_members, place_members
    from prefillshare.errors import ServerError

    try:
        with connected(address):
            from prefillshare.cluster.connection import read_nodes
            from prefillshare.cluster.roster import read_roster

            return place_members(plan, read_nodes(), read_roster(plan.config.name).members), True
    except ServerError as error:
        warn(f"{error}. The file is checked all the same; which node would get what is not known")
        return list_members(plan), False


def _plan_memory(plan: "Plan", cards: "Sequence[Gpu] | None") -> "list[Budget]":
    """Return what each worker takes of cards of its own: those of the nodes are not known here."""
    from prefillshare.cluster.plan import spot_of, unmerged, wanted_sizes
    from prefillshare.modules.deployment import resolve
    from prefillshare.serving.launch import plan_memory

    workers = {group: size for group, size in wanted_sizes(plan).items() if group.role != "router"}
    gpus = {group: spot_of(plan, group.role).gpus for group in workers}
    if not any(gpus.values()):
        return []
    if cards is None:
        say("memory depends on the nodes' GPUs: plan it for cards of 80 GB with --assume-gpus 80GB")
        return []
    config = replace(unmerged(plan.config), cluster=None)
    num_gpus = sum(max(1, gpus[group]) * size for group, size in workers.items())
    return plan_memory(resolve(config, [cards[0]] * num_gpus))


def _check_all_placed(placements: "Sequence[Placement]", is_reachable: bool) -> None:
    from prefillshare.errors import ConfigError

    left = [each for each in placements if each.node is None and not each.is_there]
    if not is_reachable or not left:
        return
    reasons = "; ".join(f"{each.member.name}: {each.reason}" for each in left)
    raise ConfigError(f"{len(left)} of {len(placements)} processes find no node ({reasons})")


def _row(placement: "Placement") -> tuple[str, ...]:
    spot = placement.member.spot
    labels = ", ".join(f"{name}={value}" for name, value in spot.labels.items()) or "any"
    there = "yes" if placement.is_there else "no"
    return placement.member.name, placement.node or "-", labels, str(spot.gpus), str(spot.cpus), there


def _as_dict(placement: "Placement") -> dict[str, object]:
    member = placement.member
    return {
        "name": member.name,
        "role": member.group.role,
        "module": member.group.module,
        "node": placement.node,
        "is_there": placement.is_there,
        "labels": member.spot.labels,
        "gpus": member.spot.gpus,
        "cpus": member.spot.cpus,
        "reason": placement.reason or None,
    }
