"""Waits until new members serve, and says what each of them waits for."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from prefillshare.cluster.connection import read_nodes
from prefillshare.cluster.nodes import Node, explain_waiting
from prefillshare.cluster.plan import Member, MemberRole, Plan, spot_of
from prefillshare.cluster.roster import Roster, read_roster
from prefillshare.cluster.status import MemberStatus
from prefillshare.errors import LaunchError

_POLL_S = 0.5
_SAY_PLACING_AFTER_S = 10.0
_NODES_STAY_S = 10.0
"""Nodes are looked at again after so long."""
_MOST_NAMES = 8
"""A line names no more members than these."""


@dataclass(slots=True, kw_only=True)
class NewMembers:
    """Members that were just placed."""

    plan: Plan
    """Their deployment."""
    members: Sequence[Member]
    """Who they are."""
    say: Callable[[str], None]
    """Hears how they stand, whenever that changes."""
    _said: dict[str, str] = field(default_factory=dict)
    _started_at: float = field(default_factory=time.monotonic)
    _nodes: list[Node] = field(default_factory=list)
    _nodes_read_at: float = float("-inf")

    def wait(self, timeout_s: float, check: Callable[[], None]) -> None:
        """Return when all of them serve; `check` is called meanwhile, and may raise.

        Raises: LaunchError with the reason of a member that cannot start, or with what they wait for after `timeout_s`.
        """
        waiting = {member.name for member in self.members}
        while waiting:
            check()
            roster = read_roster(self.plan.config.name)
            self._tell([status for status in roster.members if status.name in waiting], roster)
            waiting -= {status.name for status in roster.members if roster.is_serving(status)}
            if waiting and self._waited_s() > timeout_s:
                said = group_by_text({name: self._said.get(name, "nothing heard of it") for name in sorted(waiting)})
                raise LaunchError(f"not all served within {timeout_s:.0f} s ({'; '.join(said)})")
            if waiting:
                time.sleep(_POLL_S)

    def _waited_s(self) -> float:
        return time.monotonic() - self._started_at

    def _tell(self, members: Sequence[MemberStatus], roster: Roster) -> None:
        """Say what is new, in one line of all who stand alike: there may be hundreds."""
        new: dict[str, str] = {}
        for status in members:
            if status.state == "failed":
                raise LaunchError(f"{status.name} on node {status.node} did not start: {status.reason}")
            if status.is_waiting and self._waited_s() < _SAY_PLACING_AFTER_S:
                continue
            text = self._describe(status, roster)
            if self._said.get(status.name) != text:
                new[status.name] = text
        self._said |= new
        for line in group_by_text(new):
            self.say(line)

    def _describe(self, status: MemberStatus, roster: Roster) -> str:
        if status.is_waiting:
            return self._explain(next(member.group.role for member in self.members if member.name == status.name))
        text = f"{status.state} on {status.node}"
        if status.reason:
            return f"{text}: {status.reason}"
        silent = [router for router in roster.routers() if not router.is_known]
        if status.state != "running" or roster.is_serving(status) or self._waited_s() < _SAY_PLACING_AFTER_S:
            return text
        # A worker serves when all routers know it; without one there is nobody to say so.
        waits = [f"{router.name}, which is {router.state}{self._explain_router(router)}" for router in silent]
        return f"{text}, and waits for {'; '.join(waits)}" if waits else text

    def _explain_router(self, router: MemberStatus) -> str:
        return f" ({self._explain('router')})" if router.is_waiting else ""

    def _explain(self, role: MemberRole) -> str:
        if time.monotonic() - self._nodes_read_at > _NODES_STAY_S:
            self._nodes, self._nodes_read_at = read_nodes(), time.monotonic()
        return explain_waiting(spot_of(self.plan, role), self._nodes)


def list_some(names: Sequence[str]) -> str:
    """Return the names, or the first of many and how many more there are."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])} and {len(names) - _MOST_NAMES + 1} others"


def group_by_text(texts: Mapping[str, str]) -> list[str]:
    """Return a line for each text, with the names that have it."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    return [f"{list_some(alike)}: {text}" for text, alike in names.items()]
