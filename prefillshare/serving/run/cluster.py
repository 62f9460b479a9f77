"""A disaggregated deployment: prefill workers, decode workers and a router, each a supervised process.

Workers listen on the loopback interface only, with a key made for this launch; clients reach the router.
"""

import itertools
import secrets
import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import httpx

from prefillshare import direct
from prefillshare.contract import RESTARTS_VARIABLE, WORKER_VARIABLE
from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule
from prefillshare.places import new_private_folder
from prefillshare.serving.machine.logs import new_log_path
from prefillshare.serving.machine.ports import check_address, client_host, free_port
from prefillshare.serving.options import DEFAULT_HOST, UNTRACED, LaunchOptions, Listener, auth_header
from prefillshare.serving.plan.arguments import (
    HEARTBEAT_FAILURES,
    HEARTBEAT_S,
    EngineCommand,
    WorkerPlace,
    runs_on_cpu,
    worker_command,
)
from prefillshare.serving.plan.budget import planned_memory, planned_workers
from prefillshare.serving.plan.placement import GpuPlace, place_deployment
from prefillshare.serving.plan.preflight import check_sizes, check_transfer
from prefillshare.serving.run.engine import start_fork_server
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.process import EngineProcess, start_engine
from prefillshare.serving.run.progress import LAST_STAGE
from prefillshare.serving.run.readiness import raise_if_dead, wait_until_listening
from prefillshare.serving.run.record import ProcessRecord
from prefillshare.serving.run.router_process import RouterFile, router_command
from prefillshare.serving.run.supervisor import FIRST_DELAY_S, Supervised, Supervisor

_ASK_TIMEOUT_S = 0.5
PREFILL_DELAY_S = HEARTBEAT_S * (HEARTBEAT_FAILURES + 0.5)
"""A prefill worker stays away until every decode worker has missed it: SGLang pairs again only after that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker: what it is, where it listens, how it is started."""

    name: str
    """Such as prefill-0 or decode-math-1."""
    place: WorkerPlace
    """Its module and its ports."""
    command: EngineCommand
    """What to run."""

    @property
    def role(self) -> str:
        """prefill or decode."""
        return "prefill" if self.place.module is None else "decode"

    @property
    def module(self) -> str | None:
        """Name of the decode module that it holds."""
        return self.place.module.spec.name if self.place.module else None

    @property
    def bootstrap_port(self) -> int | None:
        """Port at which decode workers find a prefill worker."""
        return self.place.bootstrap_port

    @property
    def kv_events(self) -> str | None:
        """Address at which it publishes KV events."""
        return self.place.kv_events

    @property
    def url(self) -> str:
        """Address of its HTTP server."""
        return f"http://{self.place.host}:{self.place.port}"


@dataclass(slots=True, kw_only=True)
class RunningCluster:
    """A disaggregated deployment that answers."""

    url: str
    """Address for clients on this machine, without a path."""
    deployment: ResolvedDeployment
    """What it serves."""
    workers: tuple[Worker, ...]
    """Its workers as they were planned."""
    supervisor: Supervisor
    """Looks after workers and router."""
    forks: ForkServer | None
    """What workers are forked from; None where they are started as programs."""
    router_file: RouterFile
    """Settings of the router."""
    directory: Path
    """Private files of this launch, removed in the end."""
    api_key: str | None
    """Key that clients must send."""
    start_s: float
    """Seconds from the start to the first answer."""

    @property
    def pid(self) -> int:
        """Process id of the router."""
        process = self.supervisor.members[-1].process
        return process.pid if process else 0

    @property
    def log_path(self) -> Path:
        """File that holds what the router says."""
        return self.router_file.log_path

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name a client may put into "model"."""
        return self.deployment.config.model_names

    def processes(self) -> list[ProcessRecord]:
        """Workers and router, for `prefillshare ps`."""
        places = {worker.name: (worker.role, worker.module, worker.url) for worker in self.workers}
        records = []
        for member in self.supervisor.members:
            role, module, url = places.get(member.name, ("router", None, self.url))
            pid = member.process.pid if member.process else None
            records.append(
                ProcessRecord(
                    name=member.name,
                    role=role,
                    module=module,
                    pid=pid,
                    url=url,
                    state=member.state,
                    num_restarts=member.num_restarts,
                )
            )
        return records

    def num_running(self) -> int:
        """Return how many calls the router works on; 0 when it does not say."""
        try:
            reply = direct.get(f"{self.url}/router/state", headers=auth_header(self.api_key), timeout=2)
            return int(reply.json()["running"]) if reply.status_code == 200 else 0
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return 0

    def step(self) -> None:
        """Look after every process once.

        Effects: starts again what died.
        Raises: LaunchError when the deployment can serve nothing any more.
        """
        self.supervisor.step()
        for what in ("router", "prefill-", "decode-"):
            if self.supervisor.has_lost(what):
                self.kill()
                raise LaunchError(
                    f"every {what.rstrip('-')} process is given up, so nothing can be served: read {self.log_path}"
                )

    def stop(self, drain_s: float = 8.0) -> None:
        """Let running calls finish for at most `drain_s` seconds, then end every process."""
        router = self.supervisor.members[-1].process
        if router is not None:
            router.stop(drain_s, self.num_running)
        self.kill()

    def kill(self) -> None:
        """End every process at once."""
        self.supervisor.kill()
        if self.forks is not None:
            self.forks.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def plan_workers(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    worker_key: str | None = None,
    directory: Path = Path("$PREFILLSHARE_RUN"),
) -> tuple[Worker, ...]:
    """Every worker of the deployment on free ports: first the prefill pool, then the decode modules in their order.

    `directory` is where their sockets lie; the default is a name for people to read.

    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    runs_on_cpu(deployment)  # says what is wrong with the device before any size is computed
    check_transfer(deployment)
    check_sizes(deployment)
    gpus = place_deployment(deployment, planned_memory(deployment))
    return tuple(
        _plan_worker(deployment, options, name, module, gpu, worker_key, directory)
        for (name, module), gpu in zip(planned_workers(deployment), gpus, strict=True)
    )


def launch_cluster(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    on_stage: Listener = lambda stage: None,
    on_event: Listener = lambda text: None,
) -> RunningCluster:
    """Start workers and router and return when every decode module answered a request through the router.

    `on_event` hears, now and later, of restarts.
    Effects: on any failure or interruption, no process is left.
    Raises: LaunchError with the reason of the process that failed and the path of its log.
    """
    check_address(options.host, options.port)
    started_at, key = time.monotonic(), secrets.token_hex(24)
    directory = new_private_folder()
    forks, supervisor = None, Supervisor([], on_event)
    try:
        workers = plan_workers(deployment, options, key, directory)
        router_file = RouterFile.create(directory, deployment, options, workers, key)
        forks = start_fork_server(
            workers[0].command, _log_path(deployment, options, "forks"), options.start_timeout_s, on_stage
        )
        supervisor.members += [_supervise(worker, deployment, options, key, forks) for worker in workers]
        supervisor.members.append(_supervise_router(router_file, options))
        supervisor.begin()
        url = f"http://{client_host(options.host)}:{options.port}"
        _wait_for_all(supervisor, workers, url, key, options, on_stage)
    except BaseException:
        supervisor.kill()
        if forks is not None:
            forks.close()
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return RunningCluster(
        url=url,
        deployment=deployment,
        workers=workers,
        supervisor=supervisor,
        forks=forks,
        router_file=router_file,
        directory=directory,
        api_key=options.api_key,
        start_s=time.monotonic() - started_at,
    )


def _plan_worker(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    name: str,
    module: ResolvedModule | None,
    gpu: GpuPlace | None,
    key: str | None,
    directory: Path,
) -> Worker:
    place = WorkerPlace(
        module=module,
        host=DEFAULT_HOST,
        port=free_port(),
        nccl_port=free_port(),
        bootstrap_port=free_port() if module is None else None,
        gpu=gpu,
        # A socket's path must be short, however long the module's name is.
        kv_events=f"ipc://{directory}/{zlib.crc32(name.encode()):08x}.kv"
        if deployment.config.router.kv_events
        else None,
    )
    command = worker_command(deployment, place, api_key=key, extra_args=options.extra_args)
    return Worker(name=name, place=place, command=command)


def _supervise(
    worker: Worker, deployment: ResolvedDeployment, options: LaunchOptions, key: str, forks: ForkServer | None
) -> Supervised:
    log_path = _log_path(deployment, options, worker.name)

    starts = itertools.count()

    def start() -> EngineProcess:
        alive = forks if forks is not None and forks.is_alive() else None
        number = next(starts)
        return start_engine(_told(worker.command, worker.name, number), log_path, alive, is_restart=number > 0)

    return Supervised(
        name=worker.name,
        start=start,
        is_ready=partial(_answers, f"{worker.url}/v1/models", key),
        first_delay_s=FIRST_DELAY_S if worker.module else PREFILL_DELAY_S,
    )


def _supervise_router(file: RouterFile, options: LaunchOptions) -> Supervised:
    url = f"http://{client_host(options.host)}:{options.port}/health"
    starts = itertools.count()

    def start() -> EngineProcess:
        number = next(starts)
        command = _told(router_command(file), "router", number)
        # The directory holds the deployment's keys.
        return start_engine(command, file.log_path, is_restart=number > 0, private=[file.path.parent])

    return Supervised(
        name="router",
        start=start,
        is_ready=partial(_answers, url, options.api_key),
    )


def _told(command: EngineCommand, name: str, num_restarts: int) -> EngineCommand:
    """`command` with what the process tells of itself in its metrics."""
    told = {WORKER_VARIABLE: name, RESTARTS_VARIABLE: str(num_restarts)}
    return replace(command, environment={**command.environment, **told})


def _answers(url: str, api_key: str | None) -> bool:
    try:
        return direct.get(url, headers=auth_header(api_key), timeout=_ASK_TIMEOUT_S).status_code == 200
    except httpx.HTTPError:
        return False


def _wait_for_all(
    supervisor: Supervisor,
    workers: Sequence[Worker],
    url: str,
    key: str,
    options: LaunchOptions,
    on_stage: Listener,
) -> None:
    """Nothing is restarted during the start: whatever fails then is a fault to report."""
    processes = [member.process for member in supervisor.members if member.process]
    *engines, router = processes
    started = [(process, worker.url) for process, worker in zip(engines, workers, strict=True)]
    wait_until_listening(started, key, options.start_timeout_s, on_stage)
    wait_until_listening([(router, url)], options.api_key, options.start_timeout_s, lambda stage: None)
    on_stage(LAST_STAGE)
    _wait_until_healthy(processes, url, options)
    for name in dict.fromkeys(worker.module for worker in workers if worker.module):
        _answer_once(name, processes, url, options)
    for member in supervisor.members:
        member.state = "running"


def _wait_until_healthy(processes: Sequence[EngineProcess], url: str, options: LaunchOptions) -> None:
    """The router learns that its workers are up by asking them now and then; until then it would refuse calls."""
    deadline, header = time.monotonic() + options.start_timeout_s, auth_header(options.api_key)
    state = "nothing"
    while state != "ok" and time.monotonic() < deadline:
        try:
            state = direct.get(f"{url}/health", headers=header, timeout=_ASK_TIMEOUT_S).json()["status"]
        except (httpx.HTTPError, ValueError, KeyError):
            state = "nothing"
        for process in processes:
            raise_if_dead(process)
        time.sleep(_ASK_TIMEOUT_S / 5)


def _answer_once(module: str, processes: Sequence[EngineProcess], url: str, options: LaunchOptions) -> None:
    """Generate one token: what is slow the first time, such as the hand-shake, happens here, not for a user."""
    body = {"model": module, "prompt": [1, 1], "max_tokens": 1, "temperature": 0}
    try:
        reply = _complete(url, body, options)
    except httpx.TransportError as error:
        for process in processes:
            raise_if_dead(process)
        raise LaunchError(f"the router does not answer ({error}): read its log, {processes[-1].log_path}") from None
    if reply.status_code != 200:
        for process in processes:
            raise_if_dead(process)
        raise LaunchError(
            f"the first request to {module} was refused ({reply.text.strip()[:300]}): read the logs beside "
            f"{processes[-1].log_path}"
        )


def _complete(url: str, body: dict[str, object], options: LaunchOptions) -> httpx.Response:
    header = auth_header(options.api_key) | UNTRACED
    return direct.post(f"{url}/v1/completions", json=body, headers=header, timeout=options.start_timeout_s)


def _log_path(deployment: ResolvedDeployment, options: LaunchOptions, name: str) -> Path:
    if options.log_path is None:
        return new_log_path(f"{deployment.config.name}.{name}")
    return options.log_path.with_name(f"{options.log_path.stem}.{name}{options.log_path.suffix}")
