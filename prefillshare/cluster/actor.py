"""The actor that runs one member on its node. The only code that Ray runs there."""

import contextlib
import os
import threading
import time
from dataclasses import replace

import ray

from prefillshare.cluster.keeper import Keeper
from prefillshare.cluster.members import ask, list_deployments
from prefillshare.cluster.plan import Member
from prefillshare.cluster.status import LogPiece, MemberStatus
from prefillshare.errors import ServerError

_FIND_EVERY_S = 2.0
_LOOK_EVERY_S = 0.5
_FIND_TIMEOUT_S = 5.0


class RouterFinder:
    """Keeps the addresses of a deployment's routers at hand, wherever Ray has put them by now.

    In a thread of its own: while the cluster's head does not answer, members go on with what they knew last.
    """

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._found: dict[str, str] = {}
        threading.Thread(target=self._keep_finding, name="router-finder", daemon=True).start()

    def urls(self) -> list[str]:
        """Return the addresses of the routers that have said theirs."""
        return list(self._found.values())

    def _keep_finding(self) -> None:
        while True:
            # What cannot be asked now is asked again; until then nothing is known to have changed.
            with contextlib.suppress(ray.exceptions.RayError, ServerError, OSError, ValueError):
                self._found = _find_routers(self._deployment, self._found)
            time.sleep(_FIND_EVERY_S)


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
        finder = RouterFinder(member.plan.config.name)
        self._keeper = Keeper(member, ray.util.get_node_ip_address(), finder.urls)
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
