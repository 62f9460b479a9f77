"""The actor that runs one member on its node. The only code that Ray runs there."""

import contextlib
import threading
import time

import ray

from prefillshare.cluster.keeper import Keeper
from prefillshare.cluster.plan import Member
from prefillshare.cluster.status import LogPiece, MemberStatus

NAMESPACE = "prefillshare:"
"""Begins the Ray namespace of each deployment, so that its actors are found without knowing of it."""
_FIND_EVERY_S = 2.0
_FIND_TIMEOUT_S = 5.0


class RouterFinder:
    """Keeps the addresses of a deployment's routers at hand, wherever Ray has put them by now.

    In a thread of its own: while the cluster's head does not answer, members go on with what they knew last.
    """

    def __init__(self, deployment: str) -> None:
        self._namespace = NAMESPACE + deployment
        self._found: dict[str, str] = {}
        threading.Thread(target=self._keep_finding, name="router-finder", daemon=True).start()

    def urls(self) -> list[str]:
        """Return the addresses of the routers that have said theirs."""
        return list(self._found.values())

    def _keep_finding(self) -> None:
        while True:
            # What cannot be asked now is asked again; until then nothing is known to have changed.
            with contextlib.suppress(ray.exceptions.RayError, OSError, ValueError):
                self._found = _find_routers(self._namespace, self._found)
            time.sleep(_FIND_EVERY_S)


def _find_routers(namespace: str, known: dict[str, str]) -> dict[str, str]:
    actors = ray.util.list_named_actors(all_namespaces=True)
    names = [actor["name"] for actor in actors if actor["namespace"] == namespace]
    asked = {}
    for name in filter(lambda name: name.startswith("router-"), names):
        asked[ray.get_actor(name, namespace=namespace).url.remote()] = name
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_FIND_TIMEOUT_S) if asked else ([], [])
    # One that moves keeps its last address until it has a new one.
    found = {name: known[name] for name in asked.values() if name in known}
    for reference in ready:
        try:
            if url := ray.get(reference):
                found[asked[reference]] = url
        except ray.exceptions.RayError:
            continue
    return dict(sorted(found.items()))


class MemberActor:
    """One member, as Ray starts it, here or, after the loss of a node, elsewhere."""

    def __init__(self, member: Member) -> None:
        finder = RouterFinder(member.plan.config.name)
        self._keeper = Keeper(member, ray.util.get_node_ip_address(), finder.urls)
        self._keeper.begin()

    def status(self) -> MemberStatus:
        """Return how it stands."""
        return self._keeper.status()

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
