"""`prefillshare logs` of a deployment on a cluster: its nodes are asked."""

import sys
import time
from typing import TYPE_CHECKING

from prefillshare.cli import cluster_options as given
from prefillshare.cli.output import say

if TYPE_CHECKING:
    from prefillshare.cluster.status import LogPiece

_TIMEOUT_S = 10.0
_FOLLOW_EVERY_S = 1.0


def print_logs(address: str, deployment: str | None, worker: str | None, *, follow: bool, tail: int | None) -> None:
    """Print the log of one worker or router, from whichever node it is on."""
    with given.connected(address):
        from prefillshare.cluster.members import list_deployments
        from prefillshare.cluster.roster import choose_deployment
        from prefillshare.errors import ConfigError

        name = choose_deployment(deployment)
        known = list_deployments()[name]
        if worker is None or worker not in known:
            what = "say whose log" if worker is None else f"{name} has no {worker!r}"
            raise ConfigError(f"{what}; it has: {', '.join(known)}")
        _print(name, worker, follow=follow, tail=tail)


def _print(name: str, worker: str, *, follow: bool, tail: int | None) -> None:
    piece = _read(name, worker, 0, "")
    text = piece.text if tail is None else _last_lines(piece.text, tail)
    while True:
        sys.stdout.write(text)
        sys.stdout.flush()
        if not follow and not piece.text:
            return
        if not piece.text:
            time.sleep(_FOLLOW_EVERY_S)
        piece = _read(name, worker, piece.end, piece.file, piece if follow else None)
        text = piece.text


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


def _last_lines(text: str, count: int) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[max(0, len(lines) - count) :])
