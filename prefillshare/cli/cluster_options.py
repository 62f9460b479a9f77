"""Options of the commands that look at or change deployments on a cluster."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli.completion import complete_deployment

if TYPE_CHECKING:
    from prefillshare.cluster.plan import Plan

Address = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Address of a Ray cluster: HOST:PORT of its head on one of its nodes, ray://HOST:10001 elsewhere.",
        envvar="PREFILLSHARE_CLUSTER",
    ),
]
Deployment = Annotated[
    str | None,
    typer.Option(
        "--deployment", help="Name of the deployment, where there are several.", autocompletion=complete_deployment
    ),
]


def find_router(address: str, deployment: str | None) -> "tuple[str, Plan]":
    """Return the address of a router of a deployment on a cluster, and what the deployment was launched with.

    Raises: ConfigError, ServerError.
    """
    from prefillshare.errors import ServerError

    with connected(address):
        from prefillshare.cluster.roster import choose_deployment, read_plan, read_roster

        roster = read_roster(choose_deployment(deployment))
        plan, url = read_plan(roster), roster.url()
    if url is None:
        raise ServerError(f"no router answers: look at `prefillshare ps --cluster {address}`")
    return url, plan


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to the cluster while the block runs.

    Raises: ConfigError without an address, ServerError when the cluster does not answer.
    """
    from prefillshare.config.cluster import check_address
    from prefillshare.errors import ConfigError
    from prefillshare.extras import require

    if not address:
        raise ConfigError("this looks at a cluster: name its address with --cluster or PREFILLSHARE_CLUSTER")
    check_address(address, "--cluster")
    require("cluster")
    from prefillshare.cluster.connection import connect, disconnect

    # Ray's calls do not bear an exception from a handler, and nothing here is lost when the command just ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    connect(address)
    # Ray's own handler prints a trace.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        disconnect()
