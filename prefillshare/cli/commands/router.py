"""`prefillshare router`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli import launch_options as given
from prefillshare.cli.config_options import Changes
from prefillshare.cli.output import put, say
from prefillshare.cli.text import key_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefillshare.modules.deployment import ResolvedDeployment
    from prefillshare.serving.options import LaunchOptions

File = Annotated[Path, typer.Argument(help="Deployment file, the same on every machine.")]
AdminKey = Annotated[
    str | None,
    typer.Option(help="Key with which workers join and leave.", envvar="PREFILLSHARE_ADMIN_KEY", callback=key_option),
]

Peers = Annotated[
    list[str] | None,
    typer.Option(
        help="Addresses of all routers of the deployment, with commas between them; the same for each router.",
    ),
]
Address = Annotated[
    str | None, typer.Option(help="With --peers: this router's address among them; else http://HOST:PORT.")
]


def router(
    file: File,
    host: given.Host = "127.0.0.1",
    port: given.Port = 30000,
    api_key: given.ServerKey = None,
    admin_key: AdminKey = None,
    admin_key_file: given.AdminKeyFile = None,
    peers: Peers = None,
    address: Address = None,
    changes: Changes = None,
    log_file: given.LogFile = None,
    no_restart: given.NoRestart = False,
    drain_s: given.Drain = given.PART_DRAIN_S,
) -> None:
    """Serve the router of a deployment until Ctrl-C.

    Its workers join with `prefillshare worker`.
    """
    from prefillshare.extras import require
    from prefillshare.serving.join.worker import check_router
    from prefillshare.serving.machine.logs import check_log_file
    from prefillshare.serving.options import LaunchOptions

    key = given.require_admin_key(admin_key, admin_key_file, "workers join with an admin key")
    require("engine")
    if log_file is not None:
        check_log_file(log_file)
    deployment = _resolve(file, changes or ())
    given.warn_if_open(host, port, api_key)
    options = LaunchOptions(
        host=host,
        port=port,
        api_key=api_key or None,
        admin_key=key,
        address=None if address is None else check_router(address, "--address"),
        peers=_read_peers(peers or [], host, address),
        log_path=log_file,
        max_restarts=given.max_restarts(no_restart),
    )
    _serve(deployment, options, drain_s)


def _resolve(file: Path, changes: "Sequence[str]") -> "ResolvedDeployment":
    from prefillshare.config import load_deployment
    from prefillshare.errors import ConfigError
    from prefillshare.modules.deployment import resolve

    config = load_deployment(file, changes)
    if config.topology != "disaggregated":
        raise ConfigError(f'{config.name} has topology = "{config.topology}", which has no router: use `launch`')
    return resolve(config)


def _serve(deployment: "ResolvedDeployment", options: "LaunchOptions", drain_s: float) -> None:
    from prefillshare.serving.join.router import launch_router
    from prefillshare.serving.stopping import StopRequested, serve_until_stopped, stop_signals

    with stop_signals():
        try:
            running = launch_router(deployment, options, say)
        except StopRequested:
            say("stopped before it was ready")
            return
        serve_until_stopped(running, drain_s, say, lambda: put(f"OpenAI endpoint: {running.url}/v1"))
    say("stopped")


def _read_peers(given: list[str], host: str, address: str | None) -> tuple[str, ...]:
    """Return the addresses that --peers names.

    Raises: ConfigError, also when nobody could tell which of them is this router.
    """
    from prefillshare.errors import ConfigError
    from prefillshare.serving.join.worker import check_router

    addresses = [check_router(url.strip(), "--peers") for urls in given for url in urls.split(",") if url.strip()]
    if addresses and address is None and host in ("0.0.0.0", "::"):
        raise ConfigError(f"{host} is no address at which other routers reach this one: add --address http://...")
    return tuple(dict.fromkeys(addresses))
