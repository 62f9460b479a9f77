"""A colocated deployment: one engine that holds the prefill module and every decode module."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.machine.leftovers import sweep_leftovers
from prefillshare.serving.machine.logs import new_log_path
from prefillshare.serving.machine.ports import check_address, client_host
from prefillshare.serving.options import LaunchOptions, Listener
from prefillshare.serving.plan.processes import plan_engine
from prefillshare.serving.run.engine_load import count_running
from prefillshare.serving.run.first_answers import answer_by_engine
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.process import EngineProcess, start_engine
from prefillshare.serving.run.progress import LAST_STAGE, find_cause_of_death, last_lines, read_log
from prefillshare.serving.run.readiness import start_fork_server, wait_until_listening
from prefillshare.serving.run.record import ProcessRecord, ProcessState
from prefillshare.serving.run.store_hold import StoreHold


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
    store: StoreHold = field(default_factory=lambda: StoreHold(()))
    """Its hold on the deployment's store."""

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
        state: ProcessState = "running" if self.process.exit_code() is None else "ended"
        log = str(self.log_path)
        record = ProcessRecord(
            name="engine", role="engine", module=None, pid=self.pid, url=self.url, state=state, log=log
        )
        return [record]

    def num_running(self) -> int:
        """Return how many requests the engine works on; 0 when it does not say."""
        return count_running(self.url, self.api_key)

    def step(self) -> None:
        """Look after the engine once.

        Effects: ends what is left of an engine that ended by itself.
        Raises: LaunchError then.
        """
        self.store.step()
        if self.process.exit_code() is None:
            self.process.bound_log()
            return
        log, code = read_log(self.log_path), self.process.exit_code()
        tail = "\n".join(f"  {line}" for line in last_lines(log))
        ending = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        reason = find_cause_of_death(log, code) or ending
        self._end_processes()  # the store stays: the next launch begins warm
        self.store.stop_sharing()
        raise LaunchError(f"the engine ended by itself: {reason}\nIts last lines ({self.log_path}):\n{tail}")

    def stop(self, drain_s: float = 8.0) -> None:
        """Let running requests finish for at most `drain_s` seconds, then end every process."""
        self.process.stop(drain_s, self.num_running)
        self.kill()

    def kill(self) -> None:
        """End every process at once, and give the store back."""
        self._end_processes()
        self.store.end()

    def _end_processes(self) -> None:
        self.process.kill()
        if self.forks is not None:
            self.forks.close()


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
    sweep_leftovers()
    planned, started_at = plan_engine(deployment, options), time.monotonic()
    log_path = options.log_path or new_log_path(deployment.config.name)
    forks, process, store = None, None, StoreHold([planned])
    try:
        if borrowed is None:
            forks = start_fork_server(planned.command, log_path, options.start_timeout_s, on_stage)
        process = start_engine(planned.command, log_path, borrowed or forks)
        url = f"http://{client_host(options.host)}:{options.port}"
        wait_until_listening([(process, url)], options.api_key, options.start_timeout_s, on_stage)
        on_stage(LAST_STAGE)
        answer_by_engine(process, url, deployment, options)
    except BaseException:
        if process is not None:
            process.kill()
        if forks is not None:
            forks.close()
        store.end()
        raise
    return RunningEngine(
        url=url,
        deployment=deployment,
        process=process,
        forks=forks,
        api_key=options.api_key,
        start_s=time.monotonic() - started_at,
        store=store,
    )
