"""Runs one member of a deployment on its node, inside an actor, and starts it again until it is told to leave.

Three things can end a member, and none leaves a process behind: `leave` (drains first), an end of the actor's process
however sudden (the guardian of each started process sees it), and the end of the node.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import httpx

from prefillshare import direct
from prefillshare.cluster.node import find_address, hide_gpus_of_others, resolve_here
from prefillshare.cluster.pauses import Pauses
from prefillshare.cluster.plan import Group, Member, MemberRole, spot_of
from prefillshare.cluster.secrets import read_admin_key, read_api_key
from prefillshare.cluster.status import LogPiece, MemberState, MemberStatus
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.naming.changes import Changes
from prefillshare.serving.join.router import launch_router
from prefillshare.serving.join.worker import JoinedWorker, choose_worker, launch_worker
from prefillshare.serving.machine.ports import client_host, free_port, release, usual_ports
from prefillshare.serving.options import LaunchOptions, auth_header
from prefillshare.serving.plan.workers import Worker
from prefillshare.serving.run.cluster import RunningCluster
from prefillshare.serving.run.record import ProcessRecord
from prefillshare.transport_ports import RANGE_VARIABLE

PEER_WAIT_S = 10.0
"""Longest wait of a router for the addresses of the others that are to be."""
PEER_DRAIN_S = 30.0
"""Time for a router's calls to end before it starts anew because there is another router."""
_POLL_S = 0.2
_ASK_TIMEOUT_S = 1.0
_NUM_EVENTS = 100

Served = JoinedWorker | RunningCluster


class Memory(Protocol):
    """What a member has come to since it was placed; outlives the process and the node of its actor."""

    def recall_role(self) -> Group | None:
        """Return the role that was kept last, None when none was. Raises: ServerError when that cannot be known now."""
        ...

    def keep_role(self, group: Group) -> None:
        """Keep this role from now on; returns at once."""
        ...

    def recall_aliases(self) -> Changes:
        """Return what has changed about the aliases, by all that any router of the deployment has kept.

        Raises: ServerError when that cannot be known now.
        """
        ...

    def keep_aliases(self, changes: Changes) -> None:
        """Keep what has changed about the aliases from now on; returns at once."""
        ...


class Keeper:
    """One member; its methods may be called at any time, from any thread."""

    def __init__(
        self,
        member: Member,
        known_by: str,
        find_routers: Callable[[], list[str]],
        memory: Memory | None = None,
    ) -> None:
        """`known_by` is the address by which the cluster knows this node; `find_routers` returns the routers' URLs.

        Without a `memory` the member begins each time with the role of its name, and the aliases of its file.
        """
        self.member = member
        self._memory = memory
        self._begins_as = member.begins_as or member.group
        self._find_routers = find_routers
        self._known_by = known_by
        self._state: MemberState = "starting"
        self._reason: str | None = None
        self._url = ""
        self._served: Served | None = None
        self._api_key: str | None = None
        self._peers: tuple[str, ...] = ()
        self._changes: Changes | None = None
        self._port_before: tuple[int, ...] = ()
        self._drain_s = 0.0
        self._events: deque[str] = deque(maxlen=_NUM_EVENTS)
        self._pauses = Pauses()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=member.name, daemon=True)

    def begin(self) -> None:
        """Start the member, without waiting for it."""
        hide_gpus_of_others(self.member.spot.gpus)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of its HTTP server; empty while it has none."""
        return self._url

    def status(self) -> MemberStatus:
        """Return how it stands."""
        process, workers = self._process(), self._ask_workers()
        states: dict[str, MemberState] = {"running": "running", "restarting": "restarting", "starting": "starting"}
        state = states.get(process.state, self._state) if process and self._state == "running" else self._state
        is_router = self.member.group.role == "router"
        return MemberStatus(
            name=self.member.name,
            group=self._group(),
            state=state,
            reason=self._reason or self._find_refusals(),
            node=os.uname().nodename,
            url=self._url,
            pid=process.pid if process else None,
            num_restarts=process.num_restarts if process else 0,
            revision=self.member.revision,
            is_known=workers is not None if is_router else self._is_known(),
            workers=tuple(sorted((workers or {}).items())),
        )

    def read_log(self, offset: int, file: str, most_bytes: int = 1 << 18) -> LogPiece:
        """Return what the log has from `offset` on; from the last lines on where `file` is not the log of now.

        Without a log, that is what there is to say: why there is none.
        """
        if self._served is None:
            text = "".join(f"{event}\n" for event in self._events)
            return LogPiece(text=text if file != "events" else "", file="events", end=0)
        path = self._served.log_path
        size = path.stat().st_size if path.exists() else 0
        known = offset if offset <= size else 0  # a log that is too long is begun anew
        start = known if file == str(path) else max(0, size - most_bytes)
        return _read_piece(path, start, most_bytes)

    def leave(self, drain_s: float) -> None:
        """Let its calls end, within `drain_s` seconds, then end it for good.

        Returns when no process is left; at once where it only starts, which the end of the actor's process ends, too.
        """
        self._drain_s = drain_s
        self._leaving.set()
        if self._served is not None:
            self._thread.join()

    def _keep(self) -> None:
        while not self._leaving.is_set():
            try:
                if self._serve():
                    break
                continue
            except PrefillShareError as error:
                self._fail(str(error))
            except Exception as error:  # the end of a thread: nobody else would hear of it
                self._fail(f"{type(error).__name__}: {error}")
            self._leaving.wait(self._pauses.take())
        self._state = "left"

    def _serve(self) -> bool:
        """Start the member and look after it; return whether it was told to leave, else it is to start anew."""
        served = self._served = self._start()
        self._state, self._reason = "running", None
        try:
            while not (self._leaving.is_set() or self._is_dismissed() or self._has_other_peers()):
                if isinstance(served, JoinedWorker):
                    served.follow(self._find_routers() or served.routers)
                    self._keep_role(served)
                else:
                    self._keep_aliases(served)
                served.step()
                process = self._process()
                self._pauses.note(process is not None and process.state == "running")
                time.sleep(_POLL_S)
            is_over = not self._has_other_peers()
            if isinstance(served, RunningCluster):
                self._keep_aliases(served)  # while the router's file is there
            served.stop(self._drain_s if self._leaving.is_set() else PEER_DRAIN_S)
            return is_over or self._leaving.is_set()
        finally:
            served.kill()
            self._served = None

    def _start(self) -> Served:
        group, plan = self.member.group, self.member.plan
        deployment = resolve_here(self.member)
        host = find_address(plan.cluster.network, self._known_by)
        self._set_transport_ports()
        options = self._choose_options(host)
        self._url = f"http://{client_host(host)}:{options.port}"
        if group.role == "router":
            self._peers = self._wait_for_peers()
            options = replace(options, address=self._url, peers=self._peers)
            return launch_router(deployment, options, self._say, self._recall_aliases())
        return self._start_worker(deployment, options)

    def _wait_for_peers(self) -> tuple[str, ...]:
        """Return the addresses of all routers once they are known, or those that are; none where it is alone."""
        wanted, deadline = self.member.plan.cluster.router.replicas, time.monotonic() + PEER_WAIT_S
        while len(self._find_routers()) < wanted and time.monotonic() < deadline and not self._leaving.is_set():
            time.sleep(_POLL_S)
        return self._find_peers()

    def _find_peers(self) -> tuple[str, ...]:
        routers = self._find_routers()
        return tuple(routers) if len(routers) > 1 else ()

    def _has_other_peers(self) -> bool:
        """Whether a router was added, left, or moved to another address: routers with different lists do not agree."""
        return isinstance(self._served, RunningCluster) and self._find_peers() != self._peers

    def _recall_aliases(self) -> Changes:
        """Return what has changed about the aliases, of a router that starts.

        One that starts anew in this process knows it, and need not ask a head that may be away.
        """
        if self._changes is None:
            self._changes = self._memory.recall_aliases() if self._memory else {}
        return self._changes

    def _keep_aliases(self, served: RunningCluster) -> None:
        if (changes := served.alias_changes()) == self._changes:
            return
        self._changes = changes
        if self._memory is not None:
            self._memory.keep_aliases(changes)

    def _start_worker(self, deployment: ResolvedDeployment, options: LaunchOptions) -> JoinedWorker:
        group = self._begins_as = self._recall_role()
        worker = choose_worker(deployment, group.role, group.module, self.member.name)
        choose = partial(self._choose_role, deployment) if self.member.plan.config.roles.follow_load else None
        return launch_worker(deployment, worker, options, self._find_routers(), self._say, self._say, choose=choose)

    def _recall_role(self) -> Group:
        """Return the role that the member had come to when it ran last, here or on another node."""
        recalled = self._memory.recall_role() if self._memory and self.member.plan.config.roles.follow_load else None
        return recalled or self._begins_as

    def _keep_role(self, served: JoinedWorker) -> None:
        if served.mover is None or served.mover.is_moving or self._group() == self._begins_as:
            return
        self._begins_as = self._group()
        if self._memory is not None:
            self._memory.keep_role(self._begins_as)

    def _choose_role(self, deployment: ResolvedDeployment, module: str | None) -> Worker:
        """Return the worker of another role, under the name that this member has.

        Raises: ConfigError when members of that role may not be here.
        """
        role: MemberRole = "prefill" if module is None else "decode"
        spots = spot_of(self.member.plan, role), self.member.spot
        if (spots[0].labels, spots[0].gpus) != (spots[1].labels, spots[1].gpus):
            raise ConfigError(
                f"{self.member.name} is where {self.member.group.role} workers are, and {role} workers have other "
                "labels or gpus under [cluster]: give both the same"
            )
        return choose_worker(deployment, role, module, self.member.name)

    def _group(self) -> Group:
        """What the member does now."""
        if not isinstance(self._served, JoinedWorker):
            return self._begins_as
        module = self._served.planned.worker.module
        return Group(role="decode" if module else "prefill", module=module)

    def _choose_options(self, host: str) -> LaunchOptions:
        plan, is_router = self.member.plan, self.member.group.role == "router"
        self._api_key = read_api_key(plan.cluster) if is_router else None
        ports = self._own_ports()
        release(self._port_before)  # of a start that failed, or of a life that has ended
        # Clients must know where a router listens, whichever node it is on.
        port = plan.port + self.member.number if is_router else free_port(host, ports)
        self._port_before = (port,)
        return LaunchOptions(
            host=host,
            port=port,
            ports=ports,
            api_key=self._api_key,
            admin_key=read_admin_key(plan.cluster, plan.config.name),
        )

    def _own_ports(self) -> list[int]:
        """Ports that may be taken. Not those of routers, which may come to this node later."""
        plan = self.member.plan
        ports = usual_ports() if plan.cluster.own_ports is None else plan.cluster.own_ports
        return [port for port in ports if port not in plan.router_ports]

    def _set_transport_ports(self) -> None:
        if (ports := self.member.plan.cluster.transport_ports) is not None:
            os.environ.setdefault(RANGE_VARIABLE, f"{ports[0]}-{ports[-1]}")

    def _process(self) -> ProcessRecord | None:
        served = self._served
        return next(iter(served.processes()), None) if served is not None else None

    def _is_known(self) -> bool:
        served = self._served
        return isinstance(served, JoinedWorker) and served.announcer.is_known

    def _find_refusals(self) -> str | None:
        """Why routers do not take a worker that runs."""
        served = self._served
        return "; ".join(served.announcer.refusals) or None if isinstance(served, JoinedWorker) else None

    def _is_dismissed(self) -> bool:
        served = self._served
        return isinstance(served, JoinedWorker) and served.is_dismissed

    def _ask_workers(self) -> dict[str, str] | None:
        """Return a router's workers with their states; None of any other member, and while it does not answer."""
        if not isinstance(self._served, RunningCluster):
            return None
        try:
            reply = direct.get(f"{self._url}/workers", headers=auth_header(self._api_key), timeout=_ASK_TIMEOUT_S)
            return {worker["id"]: worker["state"] for worker in reply.json()["workers"]}
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return None

    def _say(self, text: str) -> None:
        self._events.append(f"{time.strftime('%H:%M:%S')} {text}")

    def _fail(self, reason: str) -> None:
        self._state, self._reason = "failed", reason
        self._say(reason)


def _read_piece(path: Path, start: int, most_bytes: int) -> LogPiece:
    with path.open("rb") as stream:
        stream.seek(start)
        content = stream.read(most_bytes)
    return LogPiece(text=content.decode(errors="replace"), file=str(path), end=start + len(content))
