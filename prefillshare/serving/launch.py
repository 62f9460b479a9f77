"""Start an engine and wait until it answers; stop it whatever happens.

`launch_engine` is what the command line uses, `running_deployment` the same as a context manager for tests and
measurements.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from prefillshare.config import load_deployment
from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.serving.arguments import EngineCommand, engine_command
from prefillshare.serving.ports import check_address, client_host, free_port
from prefillshare.serving.process import EngineProcess, new_log_path, start_engine
from prefillshare.serving.progress import FIRST_STAGE, LAST_STAGE, last_lines, read_log, reason_of, stage_of

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 30000
START_TIMEOUT_S = 1800.0
_POLL_S = 0.2

StageListener = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How to serve a deployment on this machine."""

    host: str = DEFAULT_HOST
    """Address to listen on."""
    port: int = DEFAULT_PORT
    """Port to listen on."""
    api_key: str | None = None
    """Key that clients must send; None for an open server."""
    log_path: Path | None = None
    """File for the engine's log; None is a new one below the user's state directory."""
    extra_args: tuple[str, ...] = ()
    """Further engine arguments; they win over the deployment's."""
    start_timeout_s: float = START_TIMEOUT_S
    """Seconds after which a start that makes no end counts as failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDeployment:
    """An engine that answers."""

    url: str
    """Address for clients on this machine, without a path."""
    deployment: ResolvedDeployment
    """What it serves."""
    process: EngineProcess
    """Its processes."""
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

    def num_running(self) -> int:
        """Return how many requests the engine works on; 0 when it does not say."""
        try:
            reply = httpx.get(
                f"{self.url}/v1/loads", params={"include": "core"}, headers=auth_header(self.api_key), timeout=2
            )
            loads = reply.json()["loads"] if reply.status_code == 200 else []
        except (httpx.HTTPError, ValueError, KeyError):
            return 0
        return sum(load.get("num_running_reqs", 0) + load.get("num_waiting_reqs", 0) for load in loads)

    def stop(self, drain_s: float = 8.0) -> None:
        """Let running requests finish for at most `drain_s` seconds, then end every process."""
        self.process.stop(drain_s, self.num_running)


def plan(deployment: ResolvedDeployment, options: LaunchOptions) -> EngineCommand:
    """Return the command that `launch_engine` would run.

    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    return engine_command(
        deployment,
        host=options.host,
        port=options.port,
        nccl_port=free_port(unlike=options.port),
        api_key=options.api_key,
        extra_args=options.extra_args,
    )


def launch_engine(
    deployment: ResolvedDeployment, options: LaunchOptions, on_stage: StageListener = lambda stage: None
) -> RunningDeployment:
    """Start the engine and return when it answered a request through a decode module.

    Effects: on any failure or interruption, no process is left.
    Raises: LaunchError with the engine's own reason and the path of its log.
    """
    check_address(options.host, options.port)
    command = plan(deployment, options)
    log_path = options.log_path or new_log_path(deployment.config.name)
    process = start_engine(command, log_path)
    try:
        url = f"http://{client_host(options.host)}:{options.port}"
        _wait_until_listening(process, url, options, on_stage)
        on_stage(LAST_STAGE)
        _answer_once(process, url, deployment, options)
    except BaseException:
        process.kill()
        raise
    return RunningDeployment(
        url=url,
        deployment=deployment,
        process=process,
        api_key=options.api_key,
        start_s=time.monotonic() - process.started_at,
    )


@contextlib.contextmanager
def running_deployment(
    path: Path,
    *,
    host: str = DEFAULT_HOST,
    port: int | None = None,
    api_key: str | None = None,
    extra_args: Sequence[str] = (),
    log_path: Path | None = None,
) -> Iterator[RunningDeployment]:
    """Serve the deployment file at `path` while the block runs; `port` None takes a free one.

    Raises: PrefillShareError when the file or its modules cannot be used, or the engine does not start.
    """
    deployment = resolve(load_deployment(Path(path)))
    options = LaunchOptions(
        host=host, port=port or free_port(host), api_key=api_key, extra_args=tuple(extra_args), log_path=log_path
    )
    running = launch_engine(deployment, options)
    try:
        yield running
    finally:
        running.stop(drain_s=0)


def auth_header(api_key: str | None) -> dict[str, str]:
    """Return the HTTP header that carries the API key."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _wait_until_listening(process: EngineProcess, url: str, options: LaunchOptions, on_stage: StageListener) -> None:
    deadline, stage = time.monotonic() + options.start_timeout_s, None
    with httpx.Client(headers=auth_header(options.api_key), timeout=5) as client:
        while not _is_listening(client, url):
            raise_if_dead(process)
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"the engine did not answer within {options.start_timeout_s:.0f} s while {stage or FIRST_STAGE}: "
                    f"read its log, {process.log_path}"
                )
            if (now := stage_of(read_log(process.log_path))) != stage:
                stage = now
                on_stage(stage)
            time.sleep(_POLL_S)


def _is_listening(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/v1/models").status_code == 200
    except httpx.TransportError:
        return False


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
        reply = httpx.post(
            f"{url}/generate", json=body, headers=auth_header(options.api_key), timeout=options.start_timeout_s
        )
    except httpx.TransportError:
        time.sleep(1)  # the engine's main process ends a moment after the worker that failed
        raise_if_dead(process)
        raise LaunchError(f"the engine does not answer requests: read its log, {process.log_path}") from None
    if reply.status_code != 200:
        raise LaunchError(
            f"the engine refused its first request ({reply.text.strip()[:300]}): read its log, {process.log_path}"
        )


def raise_if_dead(process: EngineProcess) -> None:
    """Raise LaunchError with the engine's reason and last lines when it has ended."""
    code = process.exit_code()
    if code is None:
        return
    log = read_log(process.log_path)
    ending = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    reason = reason_of(log) or f"it {ending} without a reason"
    tail = "\n".join(f"  {line}" for line in last_lines(log))
    raise LaunchError(f"the engine did not start: {reason}\nIts last lines ({process.log_path}):\n{tail}")
