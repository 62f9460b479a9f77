"""The processes of a deployment as its supervisor looks after them."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from prefillshare.contract import LISTENER_VARIABLE, RESTARTS_VARIABLE, WORKER_VARIABLE
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.machine.logs import new_log_path
from prefillshare.serving.machine.ports import client_host
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.plan.processes import PlannedWorker
from prefillshare.serving.plan.variables import HEARTBEAT_FAILURES, HEARTBEAT_S
from prefillshare.serving.run.engine_ground import EngineGround
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.held_port import HeldPort
from prefillshare.serving.run.process import EngineProcess, start_engine
from prefillshare.serving.run.readiness import is_answering
from prefillshare.serving.run.router_process import RouterFile, router_command
from prefillshare.serving.run.supervisor import FIRST_DELAY_S, Supervised

PREFILL_DELAY_S = HEARTBEAT_S * (HEARTBEAT_FAILURES + 0.5)
"""A prefill worker stays away until every decode worker has missed it: SGLang pairs again only after that."""


def supervise_engine(
    ground: EngineGround, options: LaunchOptions, log_path: Path, forks: ForkServer | None
) -> Supervised:
    """Return the engine of a colocated deployment; `forks` as for a worker."""
    url, name = f"http://{client_host(options.host)}:{options.port}", ground.planned.worker.name

    def start(command: ProcessCommand, is_restart: bool) -> EngineProcess:
        return start_engine(command, log_path, _alive(forks), is_restart=is_restart, private=[ground.directory])

    return Supervised(
        name=name,
        role="engine",
        url=url,
        start=_count_starts(ground.command, name, start, ground.command_again),
        is_ready=partial(is_answering, f"{url}/v1/models", options.api_key),
        log_path=log_path,
        max_restarts=options.max_restarts,
    )


def supervise_worker(
    planned: PlannedWorker, deployment: ResolvedDeployment, options: LaunchOptions, forks: ForkServer | None
) -> Supervised:
    """Return a worker that is forked from `forks` where that is alive, else started as a program."""
    worker, url, key = planned.worker, planned.place.url, planned.command.api_key
    log_path = log_path_of(deployment, options, worker.name)

    def start(command: ProcessCommand, is_restart: bool) -> EngineProcess:
        return start_engine(command, log_path, _alive(forks), is_restart=is_restart)

    return Supervised(
        name=worker.name,
        role=worker.role,
        url=url,
        module=worker.module,
        start=_count_starts(lambda: planned.command, worker.name, start),
        is_ready=partial(is_answering, f"{url}/v1/models", key),
        log_path=log_path,
        first_delay_s=PREFILL_DELAY_S if worker.role == "prefill" else FIRST_DELAY_S,
        max_restarts=options.max_restarts,
    )


def supervise_router(file: RouterFile, options: LaunchOptions) -> Supervised:
    """Return the router that reads `file`."""
    url, port = f"http://{client_host(options.host)}:{options.port}", HeldPort(options.host, options.port)

    def start(command: ProcessCommand, is_restart: bool) -> EngineProcess:
        descriptors = [] if (descriptor := port.descriptor()) is None else [descriptor]
        if descriptors:
            variables = {**command.environment, LISTENER_VARIABLE: str(descriptor)}
            command = replace(command, environment=variables)
        # The directory holds the deployment's keys.
        private = [file.path.parent]
        return start_engine(command, file.log_path, is_restart=is_restart, private=private, inherited=descriptors)

    return Supervised(
        name="router",
        role="router",
        url=url,
        start=_count_starts(lambda: router_command(file), "router", start),
        is_ready=partial(is_answering, f"{url}/health", options.api_key),
        let_go=port.let_go,
        log_path=file.log_path,
        max_restarts=options.max_restarts,
    )


def _count_starts(
    find: Callable[[], ProcessCommand],
    name: str,
    start: Callable[[ProcessCommand, bool], EngineProcess],
    find_again: Callable[[], ProcessCommand] | None = None,
) -> Callable[[], EngineProcess]:
    """What starts the command that `find` returns, for further lives `find_again` if that differs.

    It tells the process its name and the number of its restarts, for its metrics.
    """
    numbers = itertools.count()

    def start_next() -> EngineProcess:
        number = next(numbers)
        command = find() if number == 0 or find_again is None else find_again()
        identity = {WORKER_VARIABLE: name, RESTARTS_VARIABLE: str(number)}
        return start(replace(command, environment={**command.environment, **identity}), number > 0)

    return start_next


def _alive(forks: ForkServer | None) -> ForkServer | None:
    """Return the fork server while it can fork: without it, engines are started as programs."""
    return forks if forks is not None and forks.is_alive() else None


def log_path_of(deployment: ResolvedDeployment, options: LaunchOptions, name: str) -> Path:
    """Return the file for the log of one process of the deployment."""
    if options.log_path is None:
        return new_log_path(f"{deployment.config.name}.{name}")
    return options.log_path.with_name(f"{options.log_path.stem}.{name}{options.log_path.suffix}")
