"""Makes a deployment on a cluster be what its file says: starts what is missing, replaces what is old, ends the rest.

Each step leaves a deployment that serves, and can be taken up again by anybody: members are found by their names.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from prefillshare.cluster import connection
from prefillshare.cluster.members import ask, list_deployments
from prefillshare.cluster.plan import Group, Member, Plan, next_members, revision_of, wanted_sizes
from prefillshare.cluster.roster import Roster, read_roster
from prefillshare.cluster.secrets import read_admin_key
from prefillshare.cluster.status import MemberStatus
from prefillshare.cluster.waiting import NewMembers, list_some
from prefillshare.direct import direct_client
from prefillshare.errors import ConfigError, LaunchError, ServerError
from prefillshare.serving.options import auth_header
from prefillshare.wire.errors import error_text

DRAIN_S = 30.0
_LEAVE_EXTRA_S = 20.0
"""Longer than a member drains, before its actor is ended without it."""
_POLL_S = 0.5
_ROUTER_S = 5.0

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Changer:
    """Changes one deployment."""

    plan: Plan
    """What it is to be."""
    say: Say
    """Hears what is done."""
    timeout_s: float
    """Longest wait for new members to serve."""
    check: Callable[[], None] = lambda: None
    """Called again and again while it waits; raises when somebody wants it to end."""

    @property
    def name(self) -> str:
        """Name of the deployment."""
        return self.plan.config.name

    def apply(self, sizes: Mapping[Group, int] | None = None) -> Roster:
        """Start what is missing, wait until it serves, replace members of another revision, end those over.

        `sizes` are the wanted numbers of members, and whoever is not in it stays; without them, those of the file, and
        members of modules that it has no more end, too.
        Members that were there already, and do not serve yet, are waited for, too.
        Effects: on failure, ends again what it has started.
        Raises: LaunchError with the reason of a member that cannot start, ConfigError where the prefill module differs.
        """
        roster = read_roster(self.name)
        gone = [] if sizes else roster.others(wanted_sizes(self.plan))
        sizes = sizes or wanted_sizes(self.plan)
        self._warn_of_old_routers(roster)
        # Nobody else may do what those do that go: successors then begin as what their names say.
        keeps_moved = not any(self._find_moved(member) for member in gone)
        self._add([member for group, size in sizes.items() for member in self._missing(roster, group, size)])
        for group in sizes:
            if group.role != "router":
                self._replace_old(group, keeps_moved=keeps_moved)
        for group, size in sizes.items():
            surplus = read_roster(self.name).surplus(group, size)
            self.remove([member.name for member in surplus])
        self._remove_gone(gone)
        self._wait_for(sizes)
        return read_roster(self.name)

    def _wait_for(self, groups: Iterable[Group]) -> None:
        """Wait for those that somebody else has started, such as a launcher that was killed before they served."""
        roster = read_roster(self.name)
        waiting = [
            Member(group=group, number=status.number, plan=self.plan)
            for group in groups
            for status in roster.of(group)
            if not roster.is_serving(status)
        ]
        try:
            NewMembers(plan=self.plan, members=waiting, say=self.say).wait(self.timeout_s, self.check)
        except LaunchError as error:
            raise LaunchError(f"{error} (it was there before: it stays, and tries again by itself)") from None

    def _missing(self, roster: Roster, group: Group, size: int) -> list[Member]:
        known = roster.of(group)
        over = [member.name for member in known if member.state == "left"]
        self.remove(over, drain_s=0)
        count = max(0, size - len(known) + len(over))
        return next_members(self.plan, group, [member.number for member in known], count)

    def _remove_gone(self, gone: Sequence[MemberStatus]) -> None:
        if not gone:
            return
        names = [member.name for member in gone]
        self.say(f"the file has no module of {', '.join(names)} any more: calls for it are refused from now on")
        self.remove(names)
        modules = {name.removeprefix("decode-").rpartition("-")[0] for name in names}
        key = read_admin_key(self.plan.cluster, self.name)
        for router in read_roster(self.name).routers():
            for module in sorted(modules):
                if (reason := _forget_module(router.url, key, module)) is not None:
                    self.say(f"{router.name} goes on to name {module}: {reason}")

    def _replace_old(self, group: Group, *, keeps_moved: bool) -> None:
        """Replace one member after the other: its successor serves, in its role, before it takes no more calls."""
        wanted = revision_of(self.plan, group)
        for old in read_roster(self.name).of(group):
            if old.revision in (wanted, ""):
                continue  # that of one without an answer is not known; it starts with what it was made from
            taken = [member.number for member in read_roster(self.name).of(group)]
            [new] = next_members(self.plan, group, taken, 1, begins_as=self._find_moved(old) if keeps_moved else None)
            self.say(f"{new.name} takes the place of {old.name}")
            self._add([new])
            self.remove([old.name])

    def _find_moved(self, old: MemberStatus) -> Group | None:
        """Return what a member does that does something else than its name says, and that there still is to do."""
        is_moved = old.group is not None and not old.group.has(old.name)
        return old.group if is_moved and old.group in wanted_sizes(self.plan) else None

    def _warn_of_old_routers(self, roster: Roster) -> None:
        group = Group(role="router")
        if any(router.revision not in (revision_of(self.plan, group), "") for router in roster.of(group)):
            self.say(
                "routers keep the settings that they were started with: stop and launch to change [router], [roles], "
                "[aliases], [responses], [tenants] or otlp_endpoint"
            )

    def _add(self, members: Sequence[Member]) -> None:
        if not members:
            return
        roster = read_roster(self.name)
        try:
            for member in members:
                connection.start_member(member, [known.node_id for known in roster.of(member.group) if known.node_id])
            NewMembers(plan=self.plan, members=members, say=self.say).wait(self.timeout_s, self.check)
        except ServerError as error:
            names = ", ".join(member.name for member in members)
            raise ServerError(f"{error}; {names} may have been placed: `prefillshare ps` says so then") from None
        except BaseException:
            self.remove([member.name for member in members], drain_s=0)
            raise

    def remove(self, names: Sequence[str], drain_s: float = DRAIN_S) -> None:
        """Let members end their calls, all at once and within `drain_s` seconds, and end them for good."""
        if not names:
            return
        _end_members(self.name, names, drain_s, self.say)


def _forget_module(router: str, key: str, module: str) -> str | None:
    """Let a router name a module no more whose workers have left; return why it does."""
    try:
        with direct_client(base_url=router, headers=auth_header(key), timeout=_ROUTER_S) as client:
            reply = client.delete(f"/modules/{quote(module, safe='')}")
    except httpx.HTTPError as error:
        return f"it does not answer ({type(error).__name__})"
    return None if reply.status_code in (httpx.codes.OK, httpx.codes.NOT_FOUND) else error_text(reply.content)


def check_prefill(plan: Plan, running: Plan) -> None:
    """Raises: ConfigError when a running deployment has another prefill module, which cannot be changed under it."""
    if plan.fingerprint != running.fingerprint:
        raise ConfigError(
            f"{plan.config.name} runs on the cluster over prefill module {running.fingerprint[:19]}, and the file has "
            f"{plan.fingerprint[:19]}: stop it first, or give the other deployment another name"
        )


def stop_deployment(name: str, names: Sequence[str], drain_s: float, say: Say) -> None:
    """End a deployment: routers first, whose calls end on workers that are still there, then the workers."""
    routers = [member for member in names if member.startswith("router-")]
    groups = [routers, [member for member in names if member not in routers]]
    for members in groups:
        _end_members(name, members, drain_s, say)


def _end_members(deployment: str, names: Sequence[str], drain_s: float, say: Say) -> None:
    """Let members end their calls, and end their actors; returns when their names are free again, or says which are not
    after `_LEAVE_EXTRA_S`.
    """
    ask(deployment, names, "leave", drain_s, timeout_s=drain_s + _LEAVE_EXTRA_S)
    for name in names:
        connection.remove_member(deployment, name)
    if names:
        say(f"{list_some(names)} {'has' if len(names) == 1 else 'have'} left")
    deadline = time.monotonic() + _LEAVE_EXTRA_S
    # Who launches next must not be given an actor that is about to end.
    while (left := set(names) & set(list_deployments().get(deployment, []))) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if left:
        say(f"the cluster still has {', '.join(sorted(left))} after {_LEAVE_EXTRA_S:.0f} s: wait before a launch")
