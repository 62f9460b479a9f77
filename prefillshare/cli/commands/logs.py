"""`prefillshare logs`."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli import cluster_options as given
from prefillshare.cli.output import say

if TYPE_CHECKING:
    from prefillshare.cluster.status import LogPiece

_TIMEOUT_S = 10.0
_FOLLOW_EVERY_S = 1.0


def logs(
    worker: Annotated[str, typer.Argument(help="Name of a worker or router, as `ps` shows it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    cluster: given.Address = None,
    deployment: given.Deployment = None,
) -> None:
    """Print the log of one worker or router of a deployment on a cluster, from whichever node it is on."""

    with given.connected(cluster):
        from prefillshare.cluster.members import list_deployments
        from prefillshare.cluster.roster import choose_deployment
        from prefillshare.errors import ConfigError

        name = choose_deployment(deployment)
        if worker not in (known := list_deployments()[name]):
            raise ConfigError(f"{name} has no {worker!r}; it has: {', '.join(known)}")
        piece = _read(name, worker, 0, "")
        while True:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
            if not follow and not piece.text:
                return
            if not piece.text:
                time.sleep(_FOLLOW_EVERY_S)
            piece = _read(name, worker, piece.end, piece.file, piece if follow else None)


def _read(deployment: str, worker: str, offset: int, file: str, last: "LogPiece | None" = None) -> "LogPiece":
    """Return what comes after `offset`; nothing, with `last`, from a worker that moves."""
    from prefillshare.cluster.members import ask
    from prefillshare.cluster.status import LogPiece
    from prefillshare.errors import ServerError

    answer = ask(deployment, [worker], "read_log", offset, file, timeout_s=_TIMEOUT_S).get(worker)
    if isinstance(answer, LogPiece):
        return answer
    if last is None:
        raise ServerError(f"{worker} does not answer: it is being placed, or moves to another node")
    say(f"{worker} does not answer")
    return LogPiece(text="", file=last.file, end=last.end)
