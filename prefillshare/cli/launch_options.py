"""The options of `prefillshare launch`, one type each; `router` and `worker` have some of them too."""

from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli.output import warn
from prefillshare.cli.text import is_sendable, key_option, number_option

DeploymentFile = Annotated[
    Path | None, typer.Argument(help="Deployment file; without one, the tiny family that comes along.")
]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")]
Port = Annotated[int, typer.Option(help="Port to listen on.")]
ServerKey = Annotated[
    str | None,
    typer.Option(help="Key that clients must send.", envvar="PREFILLSHARE_API_KEY", callback=key_option),
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        help="Disaggregated: key for adding and removing workers; without one, nobody can.",
        envvar="PREFILLSHARE_ADMIN_KEY",
        callback=key_option,
    ),
]
AdminKeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File of mode 600 that holds the admin key, in place of the key.", envvar="PREFILLSHARE_ADMIN_KEY_FILE"
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print devices, memory and commands, and start nothing.")
]
AssumedGpus = Annotated[
    str | None,
    typer.Option(help="With --dry-run: plan for a machine with these GPUs, such as 8x80GB or 2x24GB,1x80GB."),
]
OtlpEndpoint = Annotated[
    str | None, typer.Option(help="OTLP gRPC receiver of traces; wins over the file's otlp_endpoint.")
]
LogFile = Annotated[Path | None, typer.Option(help="File for the engine's log.")]
ClusterAddress = Annotated[
    str | None,
    typer.Option("--cluster", help="Address of a Ray cluster to serve it on; wins over the file's [cluster]."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it running, and return when it serves; `stop` ends it.")]
NoRestart = Annotated[
    bool,
    typer.Option("--no-restart", help="Start nothing again that died, and end when nothing can be served any more."),
]
Drain = Annotated[
    float,
    typer.Option(
        "--drain", help="Seconds for running calls to end, after Ctrl-C or SIGTERM.", min=0, callback=number_option
    ),
]
DRAIN_S = 8.0
"""What a launch gives calls: less than the 10 s after which `docker stop`, told nothing else, kills."""
PART_DRAIN_S = 30.0
"""What a router or a worker does: others of the deployment serve meanwhile."""
ShowDashboard = Annotated[bool, typer.Option("--tui", help="Show the dashboard while it serves.")]

_PRIVATE_HOSTS = ("127.0.0.1", "localhost", "::1")


def max_restarts(no_restart: bool) -> int:
    """Return how often a process that died is started again."""
    from prefillshare.serving.options import MAX_RESTARTS

    return 0 if no_restart else MAX_RESTARTS


def choose_admin_key(key: str | None, file: Path | None) -> str | None:
    """Return the admin key, which is given as it is, or in a file, or not at all.

    Raises: ConfigError when it is given twice, or others may read the file.
    """
    from prefillshare.errors import ConfigError
    from prefillshare.private_files import read_private

    if key and file:
        raise ConfigError(f"the admin key is given twice, as it is and in {file}: leave one of them out")
    if file is None:
        return key or None
    found = read_private(file, "--admin-key-file")
    if not is_sendable(found):
        raise ConfigError(f"the key in {file} cannot be sent: a key is printable ASCII, without line breaks")
    return found


def require_admin_key(key: str | None, file: Path | None, why: str) -> str:
    """Return the admin key of a router or worker that stands alone.

    Raises: ConfigError as `choose_admin_key`, and without a key, which says `why` there must be one.
    """
    from prefillshare.errors import ConfigError

    if not (found := choose_admin_key(key, file)):
        raise ConfigError(
            f"{why}: choose one, the same for routers and workers, and set PREFILLSHARE_ADMIN_KEY, or name its file "
            "with --admin-key-file"
        )
    return found


def warn_if_open(host: str, port: int, api_key: str | None) -> None:
    """Say so when others than this machine's users may use the server."""
    if host not in _PRIVATE_HOSTS and not api_key:
        warn(f"anybody who can reach {host}:{port} may use the server: protect it with --api-key")
