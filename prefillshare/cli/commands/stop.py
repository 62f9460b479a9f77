"""`prefillshare stop`."""

from typing import Annotated

import typer

from prefillshare.cli import cluster_options as given
from prefillshare.cli.output import say


def stop(
    name: Annotated[str, typer.Argument(help="Name of the deployment.")],
    cluster: given.Address = None,
    drain_s: Annotated[float, typer.Option("--drain", help="Seconds for running calls to end.", min=0)] = 30.0,
) -> None:
    """End a deployment on a cluster."""

    with given.connected(cluster):
        from prefillshare.cluster.change import stop_deployment
        from prefillshare.cluster.members import list_deployments
        from prefillshare.cluster.roster import choose_deployment

        name = choose_deployment(name)
        stop_deployment(name, list_deployments()[name], drain_s, say)
    say("stopped")
