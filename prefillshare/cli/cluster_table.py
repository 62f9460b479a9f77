"""How deployments on a cluster are shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefillshare.cli.output import put, put_table, say

if TYPE_CHECKING:
    from prefillshare.cluster.roster import Roster

_HEADER = ("process", "node", "pid", "address", "state", "restarts")
"""Role and module stand in the name: with columns of their own, 80 letters are too few for names and addresses."""


def print_rosters(rosters: "Sequence[Roster]") -> None:
    """Print deployments, one table each, with the reasons of members that failed."""
    if not rosters:
        say("no deployment is on the cluster; start one with `prefillshare launch FILE --cluster ADDRESS`")
    for roster in rosters:
        _print(roster)


def _print(roster: "Roster") -> None:
    put(f"{roster.name} at {roster.url() or 'no router that answers'}")
    rows = []
    for member in roster.members:
        state = member.state if member.state != "running" or roster.is_serving(member) else "joining"
        node, address = member.node or "-", member.url or "-"
        rows.append((member.name, node, str(member.pid or "-"), address, state, str(member.num_restarts)))
    put_table(_HEADER, rows)
    for member in roster.members:
        if member.reason:
            say(f"{member.name}{f' on {member.node}' if member.node else ''}: {member.reason}")
