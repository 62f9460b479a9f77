"""A colocated deployment: one engine that holds the prefill module and every decode module."""

import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from prefillshare import direct
from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.machine.logs import new_log_path
from prefillshare.serving.machine.ports import check_address, client_host, free_port
from prefillshare.serving.options import UNTRACED, LaunchOptions, Listener, auth_header
from prefillshare.serving.plan.arguments import EngineCommand, engine_command, runs_on_cpu
from prefillshare.serving.plan.budget import planned_memory
from prefillshare.serving.plan.placement import place_deployment
from prefillshare.serving.plan.preflight import check_sizes
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.process import EngineProcess, start_engine
from prefillshare.serving.run.progress import FIRST_STAGE, LAST_STAGE, last_lines, read_log, reason_of
from prefillshare.serving.run.readiness import raise_if_dead, wait_for_fork_server, wait_until_listening
from prefillshare.serving.run.record import ProcessRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEngine:
    """An engine that answers."""

    url: str
    """Address for clients on this machine, without a path."""
    deployment: ResolvedDeployment
    """What it serves."""
    process: EngineProcess
    """Its processes."""
    forks: ForkServer | None
    """What it was forked from, to be ended with it; None when it was started as a program or by a borrowed one."""
    api_key: str | None
    """Key that clients must send."""
    start_s: float
    """Seconds from the start to the first answer."""

    @property
    def pid(self) -> int:
        """Process id of the engine."""
        return self.process.pid

    @property
    def log_path(self) -> Path:
        """File that holds everything the engine says."""
        return self.process.log_path

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name a client may put into "model"."""
        return self.deployment.config.model_names

    def processes(self) -> list[ProcessRecord]:
        """The engine, for `prefillshare ps`."""
        state = "running" if self.process.exit_code() is None else "ended"
        return [ProcessRecord(name="engine", role="engine", module=None, pid=self.pid, url=self.url, state=state)]

    def num_running(self) -> int:
        """Return how many requests the engine works on; 0 when it does not say."""
        try:
            reply = direct.get(
                f"{self.url}/v1/loads", params={"include": "core"}, headers=auth_header(self.api_key), timeout=2
            )
            loads = reply.json()["loads"] if reply.status_code == 200 else []
        except (httpx.HTTPError, ValueError, KeyError):
            return 0
        return sum(load.get("num_running_reqs", 0) + load.get("num_waiting_reqs", 0) for load in loads)

    def step(self) -> None:
        """Look after the engine once.

        Effects: ends what is left of an engine that ended by itself.
        Raises: LaunchError then.
        """
        if self.process.exit_code() is None:
            return
        log = read_log(self.log_path)
        tail = "\n".join(f"  {line}" for line in last_lines(log))
        reason = reason_of(log) or f"exit code {self.process.exit_code()}"
        self.kill()
        raise LaunchError(f"the engine ended by itself: {reason}\nIts last lines ({self.log_path}):\n{tail}")

    def stop(self, drain_s: float = 8.0) -> None:
        """Let running requests finish for at most `drain_s` seconds, then end every process."""
        self.process.stop(drain_s, self.num_running)
        self.kill()

    def kill(self) -> None:
        """End every process at once."""
        self.process.kill()
        if self.forks is not None:
            self.forks.close()


def plan(deployment: ResolvedDeployment, options: LaunchOptions) -> EngineCommand:
    """Return the command that `launch_engine` would run.

    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    runs_on_cpu(deployment)  # says what is wrong with the device before any size is computed
    check_sizes(deployment)
    place_deployment(deployment, planned_memory(deployment))  # its weights must fit
    return engine_command(
        deployment,
        host=options.host,
        port=options.port,
        nccl_port=free_port(),
        api_key=options.api_key,
        extra_args=options.extra_args,
    )


def launch_engine(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    on_stage: Listener = lambda stage: None,
    *,
    borrowed: ForkServer | None = None,
) -> RunningEngine:
    """Start the engine and return when it answered a request through a decode module.

    `borrowed` is a fork server of the caller's, made for the same environment; without one, the engine gets its own.
    Effects: on any failure or interruption, no process is left.
    Raises: LaunchError with the engine's own reason and the path of its log.
    """
    check_address(options.host, options.port)
    command, started_at = plan(deployment, options), time.monotonic()
    log_path = options.log_path or new_log_path(deployment.config.name)
    forks, process = None, None
    try:
        if borrowed is None:
            forks = start_fork_server(command, log_path, options.start_timeout_s, on_stage)
        process = start_engine(command, log_path, borrowed or forks)
        url = f"http://{client_host(options.host)}:{options.port}"
        wait_until_listening([(process, url)], options.api_key, options.start_timeout_s, on_stage)
        on_stage(LAST_STAGE)
        _answer_once(process, url, deployment, options)
    except BaseException:
        if process is not None:
            process.kill()
        if forks is not None:
            forks.close()
        raise
    return RunningEngine(
        url=url,
        deployment=deployment,
        process=process,
        forks=forks,
        api_key=options.api_key,
        start_s=time.monotonic() - started_at,
    )


def start_fork_server(
    command: EngineCommand, log_path: Path, timeout_s: float, on_stage: Listener = lambda stage: None
) -> ForkServer | None:
    """A fork server that has imported SGLang in the environment of `command`; None where engines cannot be forked.

    Raises: LaunchError with its reason when it does not come up.
    """
    if not command.can_be_forked:
        return None
    on_stage(FIRST_STAGE)
    forks = ForkServer(command.environment, log_path)
    try:
        wait_for_fork_server(forks, timeout_s)
    except BaseException:
        forks.close()
        raise
    return forks


def _answer_once(process: EngineProcess, url: str, deployment: ResolvedDeployment, options: LaunchOptions) -> None:
    """Generate one token with every decode module: what is slow the first time happens here, not for a user.

    A prompt of one token leaves nothing in the shared cache, for it has no base-made KV.
    """
    names = [module.spec.name for module in deployment.modules]
    body = {
        "input_ids": [[0]] * len(names),
        "lora_path": names,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
    }
    try:
        reply = direct.post(
            f"{url}/generate",
            json=body,
            headers=auth_header(options.api_key) | UNTRACED,
            timeout=options.start_timeout_s,
        )
    except httpx.TransportError:
        time.sleep(1)  # the engine's main process ends a moment after the worker that failed
        raise_if_dead(process)
        raise LaunchError(f"the engine does not answer requests: read its log, {process.log_path}") from None
    if reply.status_code != 200:
        raise LaunchError(
            f"the engine refused its first request ({reply.text.strip()[:300]}): read its log, {process.log_path}"
        )
