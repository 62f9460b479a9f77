"""The members of a deployment on a cluster as they stand now, asked of all at once."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from prefillshare.cluster.connection import read_nodes
from prefillshare.cluster.members import ask, list_deployments
from prefillshare.cluster.nodes import explain_waiting
from prefillshare.cluster.plan import Group, Plan, spot_of, wanted_sizes
from prefillshare.cluster.status import MemberStatus
from prefillshare.errors import ConfigError, ServerError

_TIMEOUT_S = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """One deployment on a cluster."""

    name: str
    """Name of the deployment."""
    members: tuple[MemberStatus, ...]
    """All of its workers and routers."""

    def of(self, group: Group) -> list[MemberStatus]:
        """Return the members of one group, also those that have not said anything yet, by number."""
        found = [member for member in self.members if group.has(member.name)]
        return sorted(found, key=lambda member: member.number)

    def others(self, groups: Collection[Group]) -> list[MemberStatus]:
        """Return the members of none of these groups, such as those of a module that is no more in the file."""
        return [member for member in self.members if not any(group.has(member.name) for group in groups)]

    def surplus(self, group: Group, size: int) -> list[MemberStatus]:
        """Return the members of one group that go so that `size` stay.

        First those that have said nothing yet, so do nothing; then those that do something else by now than their name
        says, and of the others those that do not run. Never the last one of what it does, as long as another one can
        go.
        """
        staying, going = self.of(group), list[MemberStatus]()
        doing = Counter(member.group for member in self.members)

        def rank(one: MemberStatus) -> tuple[bool, bool, bool, bool, int]:
            is_silent = one.group is None
            return is_silent or doing[one.group] > 1, is_silent, one.group != group, one.state != "running", one.number

        while len(staying) > size:
            goes = max(staying, key=rank)
            staying.remove(goes)
            doing[goes.group] -= 1
            going.append(goes)
        return going

    def routers(self) -> list[MemberStatus]:
        """Return the routers."""
        return self.of(Group(role="router"))

    def url(self) -> str | None:
        """Return the address of a router that answers; None while none does."""
        return next((router.url for router in self.routers() if router.is_known), None)

    def is_serving(self, member: MemberStatus) -> bool:
        """Whether calls reach a member: a worker must be up in every router's eyes, a router must answer."""
        if member.state != "running" or not member.is_known:
            return False
        if member.name.startswith("router-"):
            return True
        routers = [router for router in self.routers() if router.is_known]
        return bool(routers) and all(dict(router.workers).get(member.name) == "up" for router in routers)


def read_roster(deployment: str, names: Sequence[str] | None = None) -> Roster:
    """Ask every member of a deployment how it stands; `names` where they are known already."""
    names = list_deployments().get(deployment, []) if names is None else names
    answers = ask(deployment, names, "status", timeout_s=_TIMEOUT_S)
    return Roster(name=deployment, members=tuple(_understand(name, answers) for name in names))


def read_rosters() -> list[Roster]:
    """Return all deployments on the cluster."""
    return [read_roster(name, names) for name, names in list_deployments().items()]


def explain_waits(roster: Roster) -> Roster:
    """Return the roster with reasons for members that no node has taken, as far as anybody knows what they need."""
    if not any(member.is_waiting for member in roster.members):
        return roster
    try:
        plan = read_plan(roster)
    except ServerError:
        return roster  # nobody is there who knows
    nodes = read_nodes()
    spots = {member.name: spot_of(plan, group.role) for group in wanted_sizes(plan) for member in roster.of(group)}
    members = (
        replace(member, reason=explain_waiting(spots[member.name], nodes))
        if member.is_waiting and member.name in spots
        else member
        for member in roster.members
    )
    return replace(roster, members=tuple(members))


def read_plan(roster: Roster) -> Plan:
    """Return what a deployment was launched with last, as far as any member that answers knows.

    Raises: ServerError when none does.
    """
    answers = ask(roster.name, [member.name for member in roster.members], "member", timeout_s=_TIMEOUT_S)
    plans: list[Plan] = [answer.plan for answer in answers.values() if not isinstance(answer, Exception)]
    if not plans:
        raise ServerError(f"no member of {roster.name} answers: look at `prefillshare ps`, and try again")
    # Members that a launch did not replace keep the plan that they were made by.
    return max(plans, key=lambda plan: plan.number)


def choose_deployment(name: str | None) -> str:
    """Return the deployment that is meant: the given one, else the only one on the cluster.

    Raises: ConfigError when there is none of that name, or several.
    """
    known = list(list_deployments())
    if name is None and len(known) == 1:
        return known[0]
    if name is None or name not in known:
        listed = ", ".join(known) or "none"
        problem = "name a deployment of the cluster" if name is None else f"there is no deployment {name!r}: name one"
        raise ConfigError(f"{problem}; there are: {listed}")
    return name


def _understand(name: str, answers: Mapping[str, object]) -> MemberStatus:
    answer = answers.get(name)
    if isinstance(answer, MemberStatus):
        return answer
    # An actor whose process is gone refuses at once; one that never came up keeps callers waiting.
    return MemberStatus(name=name, state="placing" if answer is None else "moving")
