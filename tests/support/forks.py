"""One import of SGLang for all engines of a test session that start in the same environment."""

import tempfile
from pathlib import Path

from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.readiness import start_fork_server

START_TIMEOUT_S = 300.0

_servers: dict[frozenset[tuple[str, str]], ForkServer] = {}


def fork_server(command: ProcessCommand) -> ForkServer | None:
    """The session's fork server for engines like `command`, started when it is first asked for; None on a GPU."""
    environment = frozenset(command.environment.items())
    server = _servers.get(environment)
    if server is None or not server.is_alive():
        log = Path(tempfile.mkdtemp(prefix="prefillshare-forks-")) / "forks.log"
        server = start_fork_server(command, log, START_TIMEOUT_S)
        if server is not None:
            _servers[environment] = server
    return server


def close_fork_servers() -> None:
    """End them all."""
    while _servers:
        _servers.popitem()[1].close()
