"""The actor that runs one member on its node. The only code that Ray runs there."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from prefillshare.cluster.bounded import RAY
from prefillshare.cluster.keeper import Keeper
from prefillshare.cluster.members import NAMESPACE, ask, list_deployments
from prefillshare.cluster.plan import Group, Member
from prefillshare.cluster.status import LogPiece, MemberStatus
from prefillshare.errors import ServerError
from prefillshare.naming.changes import Changes, changes_as_dict, merge_changes, read_changes

_FIND_EVERY_S = 2.0
_LOOK_EVERY_S = 0.5
_FIND_TIMEOUT_S = 5.0
_ROLES = "prefillshare:roles"
"""Where the head keeps the roles of members that moved."""
_ALIASES = "prefillshare:aliases"
"""Where the head keeps what has changed about the aliases, as each router knows it."""


class Head:
    """What a member asks of the cluster's head, and lets it keep.

    In a thread of its own: while the head does not answer, members go on with what they knew last.
    """

    def __init__(self, deployment: str, actor_id: str) -> None:
        self._deployment = deployment
        self._key = actor_id
        """Stays the same when Ray starts the actor anew; another actor of the member's name has another one."""
        self._found: dict[str, str] = {}
        self._unkept: dict[str, str] = {}
        """What the head does not keep yet, by where."""
        self._hurry = threading.Event()
        threading.Thread(target=self._keep_asking, name="head", daemon=True).start()

    def find_routers(self) -> list[str]:
        """Return the addresses of the deployment's routers that have said theirs, wherever Ray has put them by now."""
        return list(self._found.values())

    def recall_role(self) -> Group | None:
        """Return the role that the member came to last; None when it never moved.

        Raises: ServerError when the head does not answer.
        """
        kept = RAY.run("asking which role it had", lambda: _internal_kv_get(self._key, namespace=_ROLES))
        return None if kept is None else Group(**json.loads(kept))

    def keep_role(self, group: Group) -> None:
        """Keep the role that the member has come to, as soon as the head answers."""
        self._keep(_ROLES, json.dumps(asdict(group)))

    def recall_aliases(self) -> Changes:
        """Return what has changed about the aliases, by all that the deployment's routers have kept.

        Any of them may have been told, and a router that was away, or is new, has kept less.
        Raises: ServerError when the head does not answer.
        """
        routers = _list_routers(self._deployment)

        def read() -> list[bytes]:
            return _read_aliases({self._key, *_find_keys(self._deployment, routers)})

        kept = RAY.run("asking what has changed about aliases", read)
        return merge_changes(read_changes(json.loads(document)) for document in kept)

    def keep_aliases(self, changes: Changes) -> None:
        """Keep what has changed about the aliases, as soon as the head answers."""
        self._keep(_ALIASES, json.dumps(changes_as_dict(changes)))

    def forget(self) -> None:
        """Forget what was kept of a member that has left."""
        for namespace in (_ROLES, _ALIASES):
            with contextlib.suppress(ServerError):  # a line that nobody reads any more stays
                RAY.run("forgetting what it knew", partial(_internal_kv_del, self._key, namespace=namespace))

    def _keep(self, namespace: str, document: str) -> None:
        self._unkept[namespace] = document
        self._hurry.set()

    def _keep_asking(self) -> None:
        while True:
            self._hurry.clear()
            # What cannot be asked now is asked again; until then nothing is known to have changed.
            with contextlib.suppress(ray.exceptions.RayError, ServerError, OSError, ValueError):
                self._tell_head()
                self._found = _find_addresses(self._deployment, self._found)
            self._hurry.wait(_FIND_EVERY_S)

    def _tell_head(self) -> None:
        for namespace in list(self._unkept):
            document = self._unkept.pop(namespace)
            try:
                RAY.run("keeping what it knows", partial(_internal_kv_put, self._key, document, namespace=namespace))
            except BaseException:
                self._unkept.setdefault(namespace, document)  # what was given meanwhile is newer
                raise


def _list_routers(deployment: str) -> list[str]:
    return [name for name in list_deployments().get(deployment, []) if name.startswith("router-")]


def _find_keys(deployment: str, names: Sequence[str]) -> set[str]:
    """Under which keys members of these names keep what they know."""
    keys = set()
    for name in names:
        with contextlib.suppress(ValueError):  # it has gone meanwhile
            keys.add(ray.get_actor(name, namespace=NAMESPACE + deployment)._actor_id.hex())
    return keys


def _read_aliases(keys: Iterable[str]) -> list[bytes]:
    found = (_internal_kv_get(key, namespace=_ALIASES) for key in keys)
    return [document for document in found if document is not None]


def _find_addresses(deployment: str, known: dict[str, str]) -> dict[str, str]:
    names = _list_routers(deployment)
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
