"""`prefillshare stop`."""

from typing import Annotated

import typer

from prefillshare.cli import cluster_options as given
from prefillshare.cli.completion import complete_deployment
from prefillshare.cli.output import say
from prefillshare.cli.text import number_option


def stop(
    name: Annotated[
        str,
        typer.Argument(help="Name of the deployment, or the pid of its launcher.", autocompletion=complete_deployment),
    ],
    cluster: given.Address = None,
    drain_s: Annotated[
        float, typer.Option("--drain", help="Seconds for running calls to end.", min=0, callback=number_option)
    ] = 30.0,
) -> None:
    """End a deployment on this machine, or on a cluster."""
    if cluster:
        _stop_on_cluster(cluster, name, drain_s)
    else:
        from prefillshare.serving.run.local import choose_deployment, stop_deployment

        stop_deployment(choose_deployment(name, may_be_left_over=True), drain_s, say)
    say("stopped")


def _stop_on_cluster(address: str, wanted: str, drain_s: float) -> None:
    with given.connected(address):
        from prefillshare.cluster.change import stop_deployment
        from prefillshare.cluster.members import list_deployments
        from prefillshare.cluster.roster import choose_deployment

        name = choose_deployment(wanted)
        stop_deployment(name, list_deployments()[name], drain_s, say)
