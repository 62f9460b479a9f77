"""An actor that keeps a role with the head of a cluster, and is killed: `python -m tests.support.ray_memory ADDRESS`.

Prints, as JSON, what it recalled at first, after it was killed and started again by Ray, and what another actor of the
same name recalls once that one has left for good.
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict

import ray

from prefillshare.cluster.actor import Head
from prefillshare.cluster.plan import Group

_NAME = "decode-math-0"
_WAIT_S = 120.0


class Remembering:
    """What a member has of the head."""

    def __init__(self) -> None:
        self._head = Head("nobody", ray.get_runtime_context().get_actor_id())

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def keep(self, group: Group) -> None:
        """As a member does that moved."""
        self._head.keep(group)

    def recall(self) -> Group | None:
        """As a member does that starts."""
        return self._head.recall()

    def forget(self) -> None:
        """As a member does that leaves."""
        self._head.forget()


def main() -> None:
    """Keep, kill, recall."""
    ray.init(sys.argv[1], log_to_driver=False)
    kind, options = ray.remote(Remembering), {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    first = kind.options(name=_NAME, **options).remote()
    said = [ray.get(first.recall.remote())]
    moved = Group(role="prefill")
    ray.get(first.keep.remote(moved))
    deadline = time.monotonic() + _WAIT_S
    while ray.get(first.recall.remote()) != moved and time.monotonic() < deadline:
        time.sleep(0.2)
    pid = ray.get(first.pid.remote())
    os.kill(pid, signal.SIGKILL)
    said.append(ray.get(first.recall.remote()))
    is_new = ray.get(first.pid.remote()) != pid
    ray.kill(first)
    said.append(ray.get(kind.options(name=f"{_NAME}-again", **options).remote().recall.remote()))
    print(json.dumps({"said": [group and asdict(group) for group in said], "is_new": is_new}))


if __name__ == "__main__":
    main()
