"""One import of SGLang for all engines of a test session, whichever deployment they serve."""

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.readiness import start_fork_server

START_TIMEOUT_S = 300.0
TOLD_TO_EACH = ("PREFILLSHARE_", "SGLANG_DISAGG")
"""Variables of one engine, set when it is forked: nothing reads them while SGLang is imported."""

_servers: dict[frozenset[tuple[str, str]], ForkServer] = {}
_folders: list[Path] = []
"""Where their logs are."""


def fork_server(command: ProcessCommand, switches: Mapping[str, str] | None = None) -> ForkServer | None:
    """The session's fork server for engines like `command`, started when it is first asked for; None on a GPU.

    `switches` are further variables, some of which SGLang reads when it is imported: those need an import of their own.
    """
    environment = {
        name: value
        for name, value in {**command.environment, **(switches or {})}.items()
        if not name.startswith(TOLD_TO_EACH)
    }
    key = frozenset(environment.items())
    server = _servers.get(key)
    if server is None or not server.is_alive():
        _folders.append(Path(tempfile.mkdtemp(prefix="prefillshare-forks-")))
        log = _folders[-1] / "forks.log"
        server = start_fork_server(dataclasses.replace(command, environment=environment), log, START_TIMEOUT_S)
        if server is not None:
            _servers[key] = server
    return server


def close_fork_servers() -> None:
    """End them all, and remove their logs."""
    while _servers:
        _servers.popitem()[1].close()
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)
