"""`prefillshare launch`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli import launch_options as given
from prefillshare.cli.config_options import Changes
from prefillshare.cli.output import say, warn

if TYPE_CHECKING:
    from prefillshare.accelerators import Gpu
    from prefillshare.config import Deployment
    from prefillshare.serving.options import LaunchOptions


def launch(
    file: given.DeploymentFile = None,
    host: given.Host = "127.0.0.1",
    port: given.Port = 30000,
    api_key: given.ServerKey = None,
    admin_key: given.AdminKey = None,
    admin_key_file: given.AdminKeyFile = None,
    changes: Changes = None,
    dry_run: given.DryRun = False,
    assume_gpus: given.AssumedGpus = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")] = False,
    otlp_endpoint: given.OtlpEndpoint = None,
    log_file: given.LogFile = None,
    tui: given.ShowDashboard = False,
    cluster: given.ClusterAddress = None,
    detach: given.Detach = False,
    no_restart: given.NoRestart = False,
    drain_s: given.Drain = given.DRAIN_S,
) -> None:
    """Serve a deployment file, until Ctrl-C or `prefillshare stop`."""
    from prefillshare.config import load_deployment
    from prefillshare.serving.embedded import embedded_deployment
    from prefillshare.serving.machine.logs import check_log_file
    from prefillshare.serving.machine.ports import check_port
    from prefillshare.serving.options import LaunchOptions

    if tui:
        _check_screen(as_json, dry_run, detach)
    found = _parse_assumed_gpus(assume_gpus, dry_run)
    check_port(port)
    if log_file is not None:
        check_log_file(log_file)
    config = load_deployment(file or embedded_deployment(), changes or ())
    if otlp_endpoint is not None:
        config = replace(config, otlp_endpoint=otlp_endpoint)
    if (address := _find_cluster(config, cluster)) is not None:
        _check_cluster_options(host, api_key, admin_key, log_file, tui, no_restart, drain_s)
        _launch_on_cluster(config, address, port, found, dry_run=dry_run, detach=detach, as_json=as_json)
        return
    options = LaunchOptions(
        host=host,
        port=port,
        api_key=api_key or None,
        admin_key=given.choose_admin_key(admin_key, admin_key_file),
        log_path=log_file,
        max_restarts=given.max_restarts(no_restart),
    )
    if dry_run:
        _plan_here(config, options, found, as_json=as_json)
    else:
        _launch_here(config, options, drain_s=drain_s, as_json=as_json, tui=tui, detach=detach)


def _plan_here(
    config: "Deployment", options: "LaunchOptions", found: "tuple[Gpu, ...] | None", *, as_json: bool
) -> None:
    from prefillshare.cli.launch_plan import print_plan, say_what_is_planned
    from prefillshare.modules.deployment import resolve
    from prefillshare.serving.machine.ports import check_address

    if found is None:  # another machine has other addresses
        check_address(options.host, options.port)
    deployment = resolve(config, found)
    say_what_is_planned(deployment, options)
    given.warn_if_open(options.host, options.port, options.api_key)
    print_plan(deployment, options, as_json=as_json)


def _launch_here(
    config: "Deployment", options: "LaunchOptions", *, drain_s: float, as_json: bool, tui: bool, detach: bool
) -> None:
    from prefillshare.cli.detached import detach as go_on_detached
    from prefillshare.extras import require
    from prefillshare.open_files import find_shortage

    require("engine")
    # Before anything is begun: the command ends in here when the part that goes on serves.
    detached = go_on_detached() if detach else None

    from prefillshare.cli.launch_plan import say_what_is_planned
    from prefillshare.cli.launch_run import serve
    from prefillshare.modules.deployment import resolve
    from prefillshare.serving.machine.ports import check_address

    check_address(options.host, options.port)
    if (shortage := find_shortage()) is not None:
        warn(shortage)
    say(f"{config.name}: checking the modules (a large one is read once, then remembered)")
    deployment = resolve(config)
    say_what_is_planned(deployment, options)
    given.warn_if_open(options.host, options.port, options.api_key)
    serve(deployment, options, drain_s=drain_s, as_json=as_json, with_dashboard=tui, detached=detached)


def _launch_on_cluster(
    config: "Deployment",
    address: str,
    port: int,
    found: "tuple[Gpu, ...] | None",
    *,
    dry_run: bool,
    detach: bool,
    as_json: bool,
) -> None:
    if dry_run:
        from prefillshare.cli.launch_cluster_plan import plan_on_cluster

        plan_on_cluster(config, address, port, found, as_json=as_json)
    else:
        from prefillshare.cli.launch_cluster import launch_on_cluster

        launch_on_cluster(config, address, port, detach=detach, as_json=as_json)


def _find_cluster(config: "Deployment", given_address: str | None) -> str | None:
    """Return the address of the cluster to serve it on; None for this machine.

    The variable of the other commands counts for a file that speaks of a cluster: others are served here as ever.
    """
    from prefillshare.config.cluster import check_address

    if given_address is not None:
        check_address(given_address, "--cluster")
    if given_address is not None or config.cluster is None:
        return given_address
    address = config.cluster.known_address
    if address is None:
        warn("[cluster] names no address: this is served on this machine; for the nodes, name it there or by --cluster")
    return address


def _check_cluster_options(
    host: str,
    api_key: str | None,
    admin_key: str | None,
    log_file: "Path | None",
    tui: bool,
    no_restart: bool,
    drain_s: float,
) -> None:
    from prefillshare.errors import ConfigError

    useless = {
        "--host": (host != "127.0.0.1", "write network under [cluster]"),
        "--api-key": (bool(api_key), "write api_key_file under [cluster]: keys do not travel with a command"),
        "--admin-key": (bool(admin_key), "workers make it out of token_file under [cluster]"),
        "--log-file": (log_file is not None, "logs lie on the nodes, `prefillshare logs WORKER` reads them"),
        "--tui": (tui, "use `prefillshare top --cluster`"),
        "--no-restart": (no_restart, "there, what was lost is always replaced, leave the option out"),
        "--drain": (drain_s != given.DRAIN_S, "give it to `prefillshare stop --cluster`"),
    }
    for option, (is_given, advice) in useless.items():
        if is_given:
            raise ConfigError(f"{option} is for one machine, and this deployment goes to a cluster: {advice}")


def _check_screen(as_json: bool, dry_run: bool, detach: bool) -> None:
    from prefillshare.errors import ConfigError
    from prefillshare.extras import require

    if as_json or dry_run:
        raise ConfigError(
            f"--tui shows the dashboard, {'--json' if as_json else '--dry-run'} prints: leave one of them out"
        )
    if detach:
        raise ConfigError("--tui stays at the terminal, --detach leaves it: leave one out; `prefillshare top` attaches")
    require("dashboard")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("--tui needs a terminal: leave it out, and watch from another one with `prefillshare top`")


def _parse_assumed_gpus(text: str | None, dry_run: bool) -> "tuple[Gpu, ...] | None":
    from prefillshare.accelerators import assumed_gpus
    from prefillshare.errors import ConfigError

    if text is None:
        return None
    if not dry_run:
        raise ConfigError(
            "--assume-gpus plans for another machine: add --dry-run, or leave it out to serve on this one"
        )
    return assumed_gpus(text)
