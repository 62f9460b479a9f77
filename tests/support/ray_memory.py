"""Actors that keep with a cluster's head what they know, and are killed: `python -m tests.support.ray_memory ADDRESS`.

Prints, as JSON, what one of two routers recalls: at first; when both were killed and started again by Ray, each of
which had been told something else; and what another one of its name recalls once both have left for good. With the
name of a deployment behind the address, it only prints what is kept of that one's aliases.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import ray

from prefillshare.cluster.actor import Head
from prefillshare.cluster.members import NAMESPACE, list_deployments
from prefillshare.cluster.plan import Group
from prefillshare.naming.changes import Changes, changes_as_dict, read_changes

_DEPLOYMENT = "nobody"
_NAMES = ("router-0", "router-1")
_WAIT_S = 120.0
_MOVED = Group(role="prefill")
_TOLD = (
    {"old": [1, "http://10.0.0.1:1", "math"], "both": [2, "http://10.0.0.1:1", "math"]},
    {"new": [3, "http://10.0.0.2:1", "code"], "both": [4, "http://10.0.0.2:1", None]},
)
"""What each router knows to have changed about aliases."""


class Remembering:
    """What a member has of the head."""

    def __init__(self) -> None:
        self._head = Head(_DEPLOYMENT, ray.get_runtime_context().get_actor_id())

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def url(self) -> str:
        """As a router has none that does not serve yet: others ask for it."""
        return ""

    def keep(self, group: Group, changes: Changes) -> None:
        """As a member does that moved, or was told of aliases."""
        self._head.keep_role(group)
        self._head.keep_aliases(changes)

    def recall(self) -> dict[str, Any]:
        """As a member does that starts."""
        group = self._head.recall_role()
        return {"role": group and asdict(group), "aliases": changes_as_dict(self._head.recall_aliases())}


def main() -> None:
    """Keep, kill, recall."""
    ray.init(sys.argv[1], log_to_driver=False)
    if len(sys.argv) > 2:
        print(json.dumps(changes_as_dict(Head(sys.argv[2], "nobody").recall_aliases())))
        return
    actors = [_start(name) for name in _NAMES]
    said = [ray.get(actors[0].recall.remote())]
    for actor, told in zip(actors, _TOLD, strict=True):
        ray.get(actor.keep.remote(_MOVED, read_changes(told)))
    deadline = time.monotonic() + _WAIT_S
    while not all(_knows_all(ray.get(actor.recall.remote())) for actor in actors) and time.monotonic() < deadline:
        time.sleep(0.2)
    pids = ray.get([actor.pid.remote() for actor in actors])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    said.append(ray.get(actors[0].recall.remote()))
    is_new = not set(ray.get([actor.pid.remote() for actor in actors])) & set(pids)
    _end(actors)
    another = _start(_NAMES[0])
    said.append(ray.get(another.recall.remote()))
    _end([another])
    print(json.dumps({"said": said, "is_new": is_new}))


def _start(name: str) -> Any:
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(Remembering).options(name=name, namespace=NAMESPACE + _DEPLOYMENT, **options).remote()


def _knows_all(recalled: dict[str, Any]) -> bool:
    return recalled["role"] == asdict(_MOVED) and set(recalled["aliases"]) == {"old", "new", "both"}


def _end(actors: Sequence[Any]) -> None:
    """End them for good; their names are free again then, and nobody finds a deployment of theirs."""
    for actor in actors:
        ray.kill(actor)
    deadline = time.monotonic() + _WAIT_S
    while _DEPLOYMENT in list_deployments() and time.monotonic() < deadline:
        time.sleep(0.2)


if __name__ == "__main__":
    main()
