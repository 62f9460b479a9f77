"""This process as a client of a Ray cluster, and how an actor there is made and ended."""

import contextlib
import os
import socket
import warnings

import ray
from ray._private import worker as ray_worker

from prefillshare.cluster.actor import MemberActor
from prefillshare.cluster.members import NAMESPACE
from prefillshare.cluster.plan import Member
from prefillshare.errors import ServerError

_CONNECT_TIMEOUT_S = 5.0
_CLIENT = "ray://"
"""Begins the address of a client server, which serves machines that are no nodes."""
_NUM_THREADS = 16
_ENVIRONMENT = {
    # Ray would kill the actor's children when it ends, the guardian first, which then could not end the engine.
    "RAY_kill_child_processes_on_worker_exit": "false",
}
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # An address that Ray rewrites (localhost) may lead nowhere, and it would try for minutes.
    "RAY_gcs_server_port_wait_time_s": "1",
}


def connect(address: str) -> None:
    """Connect this process to the cluster at `address`.

    Raises: ServerError when nothing answers there, or not to this machine.
    """
    _check_reachable(address)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        # What actors print stands in their logs.
        _keep_stdout_for_data()
        with warnings.catch_warnings(action="ignore"):
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServerError(_explain(address, " ".join(str(error).split()))) from None


def _explain(address: str, reason: str) -> str:
    """Return what is wrong and what helps when a cluster does not take this machine, of which Ray says `reason`."""
    beginning = f"the Ray cluster at {address} does not take this machine ({reason})"
    if "ersion mismatch" in reason:
        return f"{beginning}: install the same Python and the same ray on all machines"
    if address.startswith(_CLIENT):
        return f"{beginning}: name the port of the client server that `ray start --head` started, 10001 by default"
    return f"{beginning}: run `ray start --address={address}` here, or name its client server, ray://HOST:10001"


def disconnect() -> None:
    """Leave the cluster; the actors stay."""
    ray.shutdown()


def _keep_stdout_for_data() -> None:
    """Let Ray print to stderr what happens in the cluster: it would stand among the data of a command."""
    prints = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = lambda data, **options: prints({**data, "is_err": True}, **options)


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    option = "ray-client-server-port" if address.startswith(_CLIENT) else "port"
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ServerError(
            f"no Ray cluster answers at {address} ({error}): start its head with `ray start --head --{option}={port}`, "
            "or correct the address"
        ) from None


def start_member(member: Member) -> None:
    """Let Ray place a member; one of that name that is there stays as it is."""
    spot, deployment = member.spot, member.plan.config.name
    maker = ray.remote(MemberActor).options(
        name=member.name,
        namespace=NAMESPACE + deployment,
        get_if_exists=True,
        # It outlives whoever launched it, and moves when its process or its node is lost.
        lifetime="detached",
        max_restarts=-1,
        num_cpus=spot.cpus,
        num_gpus=spot.gpus,
        label_selector=dict(spot.labels) or None,
        scheduling_strategy="SPREAD" if spot.spread else "DEFAULT",
        # `leave` takes its time, and a status is wanted meanwhile.
        max_concurrency=_NUM_THREADS,
        runtime_env={"env_vars": _ENVIRONMENT},
    )
    maker.remote(member)


def remove_member(deployment: str, name: str) -> None:
    """End the actor of a member for good, and its processes with it, if they still run."""
    with contextlib.suppress(ValueError):  # it has gone
        ray.kill(ray.get_actor(name, namespace=NAMESPACE + deployment), no_restart=True)
