"""Start a deployment, whatever its topology, and wait until it answers; stop it whatever happens.

`launch` is what the command line uses, `running_deployment` the same as a context manager for tests and measurements.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.open_files import raise_limit
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import DEFAULT_HOST, LaunchOptions, Listener
from prefillshare.serving.plan.budget import Budget, device_warnings, plan_budgets
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.plan.cpu import cpu_kv_tokens
from prefillshare.serving.plan.preflight import size_warnings
from prefillshare.serving.plan.processes import plan_engine, plan_workers
from prefillshare.serving.plan.tenants import check_tenants
from prefillshare.serving.run.cluster import RunningCluster, launch_cluster
from prefillshare.serving.run.engine import RunningEngine, launch_engine
from prefillshare.serving.run.forks import ForkServer

RunningDeployment = RunningEngine | RunningCluster
"""A deployment that answers. Both have url, pid, log_path, model_names, processes(), step(), stop() and kill()."""


def launch(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    on_stage: Listener = lambda stage: None,
    on_event: Listener = lambda text: None,
    *,
    borrowed: ForkServer | None = None,
) -> RunningDeployment:
    """Start the deployment and return when every decode module answered a request.

    `on_stage` hears how far the start is, `on_event` of processes that ended and were started again. Engine or workers
    are forked from a `borrowed` fork server; without it, the deployment has its own.
    Effects: on any failure or interruption, no process is left; this process may open as many files as it is let to.
    Raises: LaunchError with the failed process's own reason and the path of its log.
    """
    raise_limit()  # whatever is started here inherits it, and each of its connections is an open file
    if deployment.config.topology == "disaggregated":
        return launch_cluster(deployment, options, on_stage, on_event, borrowed=borrowed)
    return launch_engine(deployment, options, on_stage, on_event, borrowed=borrowed)


def plan(deployment: ResolvedDeployment, options: LaunchOptions) -> dict[str, ProcessCommand]:
    """Return what `launch` would run, by name of the process.

    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    is_disaggregated = deployment.config.topology == "disaggregated"
    check_tenants(deployment.config, options.api_key)
    planned = plan_workers(deployment, options) if is_disaggregated else (plan_engine(deployment, options),)
    return {process.worker.name: process.command for process in planned}


def plan_memory(deployment: ResolvedDeployment) -> list[Budget]:
    """Return which device and how much memory each process of `plan` that holds weights would take.

    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    return plan_budgets(deployment, cpu_kv_tokens(deployment))


def plan_warnings(deployment: ResolvedDeployment, options: LaunchOptions | None = None) -> list[str]:
    """Return what the user should know about the devices although the deployment can be served as `options` want it.

    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    plan(deployment, options or LaunchOptions())  # what cannot be served at all is said first, and alone
    planned = plan_memory(deployment)
    return [*device_warnings(deployment, planned), *size_warnings(deployment, planned)]


@contextlib.contextmanager
def running_deployment(
    path: Path,
    *,
    host: str = DEFAULT_HOST,
    port: int | None = None,
    api_key: str | None = None,
    extra_args: Sequence[str] = (),
    log_path: Path | None = None,
    fork_server: Callable[[ProcessCommand], ForkServer | None] | None = None,
) -> Iterator[RunningDeployment]:
    """Serve the deployment file at `path` while the block runs; `port` None takes a free one.

    `fork_server` hands out a server to fork from, for one of its commands; without it, the deployment has its own.
    Raises: PrefillShareError when the file or its modules cannot be used, or the deployment does not start.
    """
    deployment = resolve(load_deployment(Path(path)))
    options = LaunchOptions(
        host=host, port=port or free_port(host), api_key=api_key, extra_args=tuple(extra_args), log_path=log_path
    )
    borrowed = None if fork_server is None else fork_server(next(iter(plan(deployment, options).values())))
    running = launch(deployment, options, borrowed=borrowed)
    try:
        yield running
    finally:
        running.stop(drain_s=0)
