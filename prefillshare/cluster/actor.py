"""The actor that runs one member on its node. The only code that Ray runs there."""

import contextlib
import json
import os
import threading
import time
from dataclasses import asdict, replace

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from prefillshare.cluster.bounded import RAY
from prefillshare.cluster.keeper import Keeper
from prefillshare.cluster.members import ask, list_deployments
from prefillshare.cluster.plan import Group, Member
from prefillshare.cluster.status import LogPiece, MemberStatus
from prefillshare.errors import ServerError

_FIND_EVERY_S = 2.0
_LOOK_EVERY_S = 0.5
_FIND_TIMEOUT_S = 5.0
_ROLES = "prefillshare:roles"
"""Where the head keeps the roles of members that moved."""


class Head:
    """What a member asks of the cluster's head, and lets it keep.

    In a thread of its own: while the head does not answer, members go on with what they knew last.
    """

    def __init__(self, deployment: str, actor_id: str) -> None:
        self._deployment = deployment
        self._key = actor_id
        """Stays the same when Ray starts the actor anew; another actor of the member's name has another one."""
        self._found: dict[str, str] = {}
        self._unkept: Group | None = None
        threading.Thread(target=self._keep_asking, name="head", daemon=True).start()

    def find_routers(self) -> list[str]:
        """Return the addresses of the deployment's routers that have said theirs, wherever Ray has put them by now."""
        return list(self._found.values())

    def recall(self) -> Group | None:
        """Return the role that the member came to last; None when it never moved.

        Raises: ServerError when the head does not answer.
        """
        kept = RAY.run("asking which role it had", lambda: _internal_kv_get(self._key, namespace=_ROLES))
        return None if kept is None else Group(**json.loads(kept))

    def keep(self, group: Group) -> None:
        """Keep the role that the member has come to, as soon as the head answers."""
        self._unkept = group

    def forget(self) -> None:
        """Forget the role of a member that has left."""
        with contextlib.suppress(ServerError):  # a line that nobody reads any more stays
            RAY.run("forgetting its role", lambda: _internal_kv_del(self._key, namespace=_ROLES))

    def _keep_asking(self) -> None:
        while True:
            # What cannot be asked now is asked again; until then nothing is known to have changed.
            with contextlib.suppress(ray.exceptions.RayError, ServerError, OSError, ValueError):
                self._keep_role()
                self._found = _find_routers(self._deployment, self._found)
            time.sleep(_FIND_EVERY_S)

    def _keep_role(self) -> None:
        if (group := self._unkept) is None:
            return
        RAY.run("keeping its role", lambda: _internal_kv_put(self._key, json.dumps(asdict(group)), namespace=_ROLES))
        if self._unkept is group:
            self._unkept = None


def _find_routers(deployment: str, known: dict[str, str]) -> dict[str, str]:
    names = [name for name in list_deployments().get(deployment, []) if name.startswith("router-")]
    answers = ask(deployment, names, "url", timeout_s=_FIND_TIMEOUT_S)
    # One that moves keeps its last address until it has a new one.
    found = {name: known[name] for name in names if name in known}
    found |= {name: url for name, url in answers.items() if isinstance(url, str) and url}
    return dict(sorted(found.items()))


def _end_with_the_node(raylet: int) -> None:
    """End this process when the raylet that started it is gone: Ray starts the member elsewhere.

    Ray does not do so reliably, and two of one name would run. The guardians end what this process has started.
    """
    while os.getppid() == raylet:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)


class MemberActor:
    """One member, as Ray starts it, here or, after the loss of a node, elsewhere."""

    def __init__(self, member: Member) -> None:
        threading.Thread(target=_end_with_the_node, args=(os.getppid(),), name="node", daemon=True).start()
        self._head = Head(member.plan.config.name, ray.get_runtime_context().get_actor_id())
        self._keeper = Keeper(member, ray.util.get_node_ip_address(), self._head.find_routers, self._head)
        self._keeper.begin()

    def status(self) -> MemberStatus:
        """Return how it stands."""
        return replace(self._keeper.status(), node_id=ray.get_runtime_context().get_node_id())

    def member(self) -> Member:
        """Return what it was made from."""
        return self._keeper.member

    def url(self) -> str:
        """Return its address; empty while it has none."""
        return self._keeper.url

    def read_log(self, offset: int, file: str) -> LogPiece:
        """Return what its log has from `offset` on."""
        return self._keeper.read_log(offset, file)

    def leave(self, drain_s: float) -> None:
        """End it; returns when no process is left."""
        self._keeper.leave(drain_s)
        self._head.forget()
