"""`prefillshare logs`."""

from typing import Annotated

import typer

from prefillshare.cli import cluster_options as given
from prefillshare.cli.completion import complete_process

Worker = Annotated[
    str | None,
    typer.Argument(
        help="Name of a worker or router, as `ps` shows it; without one, on this machine, all of them.",
        autocompletion=complete_process,
    ),
]
Tail = Annotated[int | None, typer.Option("--tail", help="Begin with that many lines of each log.", min=0)]


def logs(
    worker: Worker = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    tail: Tail = None,
    cluster: given.Address = None,
    deployment: given.Deployment = None,
) -> None:
    """Print what the processes of a deployment say.

    On this machine, or from any node of a cluster.
    """
    if cluster:
        from prefillshare.cli.logs_of_cluster import print_logs

        print_logs(cluster, deployment, worker, follow=follow, tail=tail)
    else:
        from prefillshare.cli.logs_of_machine import print_logs as print_logs_here

        print_logs_here(deployment, worker, follow=follow, tail=tail)
