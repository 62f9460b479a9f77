"""`prefillshare worker`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prefillshare.cli import launch_options as given
from prefillshare.cli.config_options import Changes
from prefillshare.cli.output import say, warn
from prefillshare.cli.text import key_option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prefillshare.modules.deployment import ResolvedDeployment
    from prefillshare.serving.join.worker import JoinedWorker
    from prefillshare.serving.options import LaunchOptions, Listener
    from prefillshare.serving.plan.workers import Worker

File = Annotated[Path, typer.Argument(help="Deployment file, the same on every machine.")]
Role = Annotated[Literal["prefill", "decode"], typer.Option(help="What the worker does.")]
Module = Annotated[str | None, typer.Option(help="Decode module that a decode worker serves.")]
Routers = Annotated[list[str], typer.Option("--join", help="Address of a router; again for each further one.")]
Name = Annotated[str | None, typer.Option(help="Name of the worker; else its role, module, machine and port.")]
Host = Annotated[str, typer.Option(help="Address of this machine at which routers and workers reach it.")]
Port = Annotated[int | None, typer.Option(help="Port of its HTTP server; else a free one.")]
AnyRole = Annotated[
    bool, typer.Option("--any-role", help="Start it in another role when a router says so: roles follow the load.")
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        help="The routers' admin key: with it workers join.", envvar="PREFILLSHARE_ADMIN_KEY", callback=key_option
    ),
]


def worker(
    file: File,
    role: Role,
    join: Routers,
    module: Module = None,
    name: Name = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    any_role: AnyRole = False,
    admin_key: AdminKey = None,
    admin_key_file: given.AdminKeyFile = None,
    changes: Changes = None,
    log_file: given.LogFile = None,
    no_restart: given.NoRestart = False,
    drain_s: given.Drain = given.PART_DRAIN_S,
) -> None:
    """Serve one worker of a deployment until Ctrl-C.

    It makes itself known to routers, here or elsewhere.
    """
    from prefillshare.extras import require
    from prefillshare.serving.join.worker import check_router
    from prefillshare.serving.machine.interfaces import find_interface
    from prefillshare.serving.machine.logs import check_log_file
    from prefillshare.serving.machine.ports import check_address, free_port
    from prefillshare.serving.options import LaunchOptions

    key = given.require_admin_key(admin_key, admin_key_file, "workers join with the routers' admin key")
    routers = tuple(dict.fromkeys(check_router(url) for url in join))
    if log_file is not None:
        check_log_file(log_file)
    require("engine")
    find_interface(host)  # 0.0.0.0 is no address that others could be told
    port = port or free_port(host)
    check_address(host, port)
    restarts = given.max_restarts(no_restart)
    options = LaunchOptions(host=host, port=port, admin_key=key, log_path=log_file, max_restarts=restarts)
    start = _make_start(_resolve(file, changes or ()), role, module, name, options, routers, any_role=any_role)
    _serve(start, drain_s)


def _resolve(file: Path, changes: "Sequence[str]") -> "ResolvedDeployment":
    from prefillshare.config import load_deployment
    from prefillshare.modules.deployment import resolve

    config = load_deployment(file, changes)
    say(f"{config.name}: checking the modules (a large one is read once, then remembered)")
    deployment = resolve(config)
    for text in deployment.warnings:
        warn(text)
    return deployment


def _make_start(
    deployment: "ResolvedDeployment",
    role: str,
    module: str | None,
    name: str | None,
    options: "LaunchOptions",
    routers: tuple[str, ...],
    *,
    any_role: bool,
) -> "Callable[[Listener], JoinedWorker]":
    """Return what starts the worker, once it is known to be one of the deployment."""
    from prefillshare.serving.join.worker import choose_worker, launch_worker, name_by_port

    def choose(role: str, module: str | None) -> "Worker":
        found = choose_worker(deployment, role, module, name)
        return found if name else name_by_port(found, options.port)

    def choose_again(module: str | None) -> "Worker":
        return choose("decode" if module else "prefill", module)

    chosen = choose(role, module)
    if any_role and not deployment.config.roles.follow_load:
        warn("--any-role without follow_load = true under [roles]: the routers of this file move nobody")
    if any_role and chosen.serves_whole_calls:
        warn(f"--any-role for {module!r}, which has share = false: its workers serve whole calls and keep their role")
    say(f"starting {chosen.name} at http://{options.host}:{options.port}")
    changing = choose_again if any_role else None
    return lambda on_stage: launch_worker(deployment, chosen, options, routers, on_stage, say, choose=changing)


def _serve(start: "Callable[[Listener], JoinedWorker]", drain_s: float) -> None:
    from prefillshare.cli.progress import StageLines
    from prefillshare.serving.stopping import StopRequested, serve_until_stopped, stop_signals

    with stop_signals():
        try:
            with StageLines() as stages:
                running = start(stages.show)
        except StopRequested:
            say("stopped before it was ready")
            return
        ready = f"ready after {running.start_s:.1f} s, log in {running.log_path}"
        serve_until_stopped(running, drain_s, say, lambda: say(ready), Dismissal(running))
    say("stopped")


class Dismissal:
    """Ends the worker when a router says that it was told to leave."""

    def __init__(self, running: "JoinedWorker") -> None:
        self._running = running

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def look(self) -> None:
        """See whether it was dismissed.

        Raises: StopRequested then.
        """
        from prefillshare.serving.stopping import StopRequested

        if self._running.is_dismissed:
            say("a router was told to let this worker leave")
            raise StopRequested
