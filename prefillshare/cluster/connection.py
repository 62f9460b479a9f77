"""This process as a client of a Ray cluster, and how an actor there is made and ended."""

import contextlib
import os
import socket
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.util.client
from ray._private import worker as ray_worker
from ray._private.state import available_resources_per_node

from prefillshare.cluster.actor import MemberActor
from prefillshare.cluster.bounded import RAY
from prefillshare.cluster.members import NAMESPACE
from prefillshare.cluster.nodes import Node
from prefillshare.cluster.plan import Member
from prefillshare.cluster.stranger import CLIENT, REFUSED, ask_door
from prefillshare.errors import ServerError

_CONNECT_TIMEOUT_S = 5.0
_JOIN_TIMEOUT_S = 90.0
"""Longest wait until the cluster takes this process; its client server starts a process for each client."""
_LEAVE_TIMEOUT_S = 5.0
_FREE_S = 30.0
"""Longest wait for what is free; with a client, for a process that is started for that."""
_NUM_THREADS = 16
_SETTINGS_FRAME = b"\x04"
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS_FRAME + bytes(5)
"""With what a client of HTTP/2 begins; a server answers with a frame of the same type, its fourth byte."""
_NODE_LABEL = "ray.io/node-id"
"""A label that Ray gives each node."""
_ENVIRONMENT = {
    # Ray would kill the actor's children when it ends, the guardian first, which then could not end the engine.
    "RAY_kill_child_processes_on_worker_exit": "false",
}
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # An address that Ray rewrites (localhost) may lead nowhere, and it would try for minutes.
    "RAY_gcs_server_port_wait_time_s": "1",
    # Ray would end this process where it stands, a minute after the head has gone.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",
}


def connect(address: str) -> None:
    """Connect this process to the cluster at `address`.

    Raises: ServerError when nothing answers there, or not to this machine.
    """
    _check_reachable(address)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    RAY.address = address
    _check_token_file()
    if RAY.run("showing it the token", lambda: ask_door(address)) == REFUSED:
        raise ServerError(explain_refusal(address))
    try:
        RAY.run("joining it", lambda: _join(address), timeout_s=_JOIN_TIMEOUT_S)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServerError(_explain(address, " ".join(str(error).split()))) from None


def _check_token_file() -> None:
    """Raises: ServerError when there is no token in the file that is named; Ray would end this process."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" or not path or "RAY_AUTH_TOKEN" in os.environ:
        return
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(
            f"{path} cannot be read ({error}): let RAY_AUTH_TOKEN_PATH name the file with the token"
        ) from None
    if not text.strip():
        raise ServerError(f"{path} is empty: let RAY_AUTH_TOKEN_PATH name the file with the cluster's token")


def explain_refusal(address: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return what helps where a cluster does not take the token of the environment, or the want of one."""
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        return (
            f"the Ray cluster at {address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file "
            "with it"
        )
    own = environment.get("RAY_AUTH_TOKEN_PATH")
    where = f"in {own}" if own else "of this machine (RAY_AUTH_TOKEN_PATH names none)"
    return f"the Ray cluster at {address} takes another token than that {where}: copy the file of the cluster's nodes"


def _join(address: str) -> None:
    _keep_stdout_for_data()
    with warnings.catch_warnings(action="ignore"):
        # What actors print stands in their logs.
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")


def _explain(address: str, reason: str) -> str:
    """Return what is wrong and what helps when a cluster does not take this machine, of which Ray says `reason`."""
    reason = reason.partition(". Ensure that the token")[0]
    beginning = f"the Ray cluster at {address} does not take this machine ({reason})"
    if "ersion mismatch" in reason:
        return f"{beginning}: install the same Python and the same ray on all machines"
    if "RAY_AUTH_TOKEN" in reason or "no authentication token" in reason:
        return f"{beginning}: let RAY_AUTH_TOKEN_PATH name the file with the cluster's token"
    token = " (where the cluster wants a token: RAY_AUTH_MODE=token, and its file in RAY_AUTH_TOKEN_PATH)"
    if os.environ.get("RAY_AUTH_MODE") == "token":  # Ray says nothing else of a wrong one
        token = ". It may have another token than this machine: compare the files that RAY_AUTH_TOKEN_PATH names"
    if address.startswith(CLIENT):
        return (
            f"{beginning}: see that its head runs, and name the port of the client server that `ray start --head` "
            f"started, 10001 by default{token}"
        )
    return f"{beginning}: run `ray start --address={address}` here, or name its client server, ray://HOST:10001{token}"


def disconnect() -> None:
    """Leave the cluster; the actors stay. One that does not answer is left without a word."""
    with contextlib.suppress(ServerError):
        RAY.run("leaving it", ray.shutdown, timeout_s=_LEAVE_TIMEOUT_S)


def _keep_stdout_for_data() -> None:
    """Let Ray print to stderr what happens in the cluster: it would stand among the data of a command."""
    prints = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = lambda data, **options: prints({**data, "is_err": True}, **options)


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    option = "ray-client-server-port" if address.startswith(CLIENT) else "port"
    try:
        with socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S) as connection:
            is_other = "RAY_USE_TLS" not in os.environ and not _may_speak_grpc(connection)
    except OSError as error:
        raise ServerError(
            f"no Ray cluster answers at {address} ({error}): start its head with `ray start --head --{option}={port}`, "
            "or correct the address"
        ) from None
    if is_other:
        # Ray itself would try for most of a minute.
        raise ServerError(f"what answers at {address} is no Ray cluster: name the port of its head, 6379 by default")


def _may_speak_grpc(connection: socket.socket) -> bool:
    """Whether the server answers HTTP/2, or says nothing yet, as a busy one."""
    try:
        connection.sendall(_HTTP2_GREETING)
        answer = connection.recv(9, socket.MSG_WAITALL)
    except TimeoutError:
        return True
    except ConnectionError:
        return False
    return answer[3:4] == _SETTINGS_FRAME


def start_member(member: Member, taken: Sequence[str] = ()) -> None:
    """Let Ray place a member; one of that name that is there stays as it is.

    `taken` are the ids of the nodes of its group's other members, each as often as it has one.
    Raises: ServerError when the cluster does not answer.
    """
    RAY.run(f"placing {member.name}", lambda: _start(member, taken))


def _start(member: Member, taken: Sequence[str]) -> None:
    spot, deployment = member.spot, member.plan.config.name
    wanted, *others = order_selectors(spot.labels, taken if spot.spread else ())
    maker = ray.remote(MemberActor).options(
        name=member.name,
        namespace=NAMESPACE + deployment,
        get_if_exists=True,
        # It outlives whoever launched it, and moves when its process or its node is lost.
        lifetime="detached",
        max_restarts=-1,
        num_cpus=spot.cpus,
        num_gpus=spot.gpus,
        label_selector=wanted or None,
        fallback_strategy=[{"label_selector": labels} for labels in others] or None,
        scheduling_strategy="SPREAD" if spot.spread else "DEFAULT",
        # `leave` takes its time, and a status is wanted meanwhile.
        max_concurrency=_NUM_THREADS,
        runtime_env={"env_vars": _ENVIRONMENT},
    )
    maker.remote(member)


def order_selectors(labels: Mapping[str, str], taken: Sequence[str]) -> list[dict[str, str]]:
    """Return conditions for a node of another member, the best first: nodes with the fewest of `taken` are wanted.

    Ray's own spreading takes nodes in turn, and does not know who has left since: two replicas may meet on one node.
    """
    numbers = Counter(taken)
    fullest = max(numbers.values(), default=0)
    crowded = [sorted(node for node, count in numbers.items() if count >= least) for least in range(1, fullest + 1)]
    return [*({**labels, _NODE_LABEL: f"!in({','.join(nodes)})"} for nodes in crowded), dict(labels)]


def read_nodes() -> list[Node]:
    """Return the nodes that are up, with what is free on each.

    Raises: ServerError when the cluster does not answer.
    """
    is_client = ray.util.client.ray.is_connected()
    free = RAY.run("asking what is free", _ask_a_node_what_is_free if is_client else _read_free, timeout_s=_FREE_S)
    nodes = RAY.run("listing nodes", ray.nodes)
    return [_describe_node(node, free.get(node["NodeID"], {})) for node in nodes if node["Alive"]]


def _read_free() -> Mapping[str, Mapping[str, float]]:
    return available_resources_per_node()


def _ask_a_node_what_is_free() -> Mapping[str, Mapping[str, float]]:
    """A client cannot ask the head: a process on some node does so for it."""
    return ray.get(ray.remote(_read_free).options(num_cpus=0).remote(), timeout=_FREE_S)


def _describe_node(told: Mapping[str, Any], free: Mapping[str, float]) -> Node:
    # What is free is told a moment after a node has joined; what is all taken is left out.
    has = told["Resources"]
    return Node(
        id=told["NodeID"],
        name=told["NodeManagerHostname"],
        labels=told["Labels"],
        gpus=has.get("GPU", 0),
        cpus=has.get("CPU", 0),
        free_gpus=free.get("GPU", 0),
        free_cpus=free.get("CPU", 0),
    )


def remove_member(deployment: str, name: str) -> None:
    """End the actor of a member for good, and its processes with it, if they still run.

    Raises: ServerError when the cluster does not answer.
    """
    RAY.run(f"ending {name}", lambda: _end(deployment, name))


def _end(deployment: str, name: str) -> None:
    with contextlib.suppress(ValueError):  # it has gone
        ray.kill(ray.get_actor(name, namespace=NAMESPACE + deployment), no_restart=True)
