"""A colocated deployment: one engine that holds the prefill module and every decode module.

An engine that dies is started again, as workers are: its address, its modules and its store stay.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.machine.leftovers import sweep_leftovers
from prefillshare.serving.machine.logs import new_log_path
from prefillshare.serving.machine.ports import check_address
from prefillshare.serving.options import LaunchOptions, Listener
from prefillshare.serving.run.engine_ground import EngineGround
from prefillshare.serving.run.engine_load import count_running
from prefillshare.serving.run.first_answers import answer_by_engine
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.members import supervise_engine
from prefillshare.serving.run.progress import LAST_STAGE, last_lines, read_log
from prefillshare.serving.run.readiness import start_fork_server, wait_until_listening
from prefillshare.serving.run.record import ProcessRecord
from prefillshare.serving.run.store_hold import StoreHold
from prefillshare.serving.run.supervisor import Supervised, Supervisor
from prefillshare.serving.run.watched import WatchedFolder, watch_folder


@dataclass(slots=True, kw_only=True)
class RunningEngine:
    """An engine that answers."""

    ground: EngineGround
    """What it serves."""
    member: Supervised
    """Its processes, in whichever of its lives."""
    supervisor: Supervisor
    """Looks after it."""
    forks: ForkServer | None
    """What it was forked from, to be ended with it; None when it was started as a program or by a borrowed one."""
    api_key: str | None
    """Key that clients must send."""
    admin_key: str | None
    """Key for changes of its modules; None lets whoever may call make them."""
    start_s: float
    """Seconds from the start to the first answer."""
    log_path: Path
    """File that holds everything the engine says."""
    store: StoreHold
    """Its hold on the deployment's store."""
    watched: WatchedFolder | None
    """Folder from which modules come; None without one."""

    @property
    def deployment(self) -> ResolvedDeployment:
        """What the engine that runs was started with."""
        return self.ground.deployment

    @property
    def url(self) -> str:
        """Address for clients on this machine, without a path."""
        return self.member.url

    @property
    def pid(self) -> int:
        """Process id of the engine; 0 while it does not run."""
        return self.member.process.pid if self.member.process else 0

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name a client may put into "model"."""
        return self.ground.model_names

    def processes(self) -> list[ProcessRecord]:
        """Return the engine, for `prefillshare ps`."""
        return [self.member.record()]

    def num_running(self) -> int | None:
        """Return how many requests the engine works on, as :func:`count_running` says it."""
        return count_running(self.url, self.api_key)

    def step(self) -> None:
        """Look after the engine once.

        Effects: starts it again when it has died.
        Raises: LaunchError when it is given up.
        """
        self.store.step()
        # Nobody would answer a change that the folder asks for meanwhile.
        if self.watched is not None and self.member.state == "running":
            self.watched.step()
        self.supervisor.step()
        if self.member.state == "failed":
            tail = "\n".join(f"  {line}" for line in last_lines(read_log(self.log_path)))
            _end(self.ground, self.supervisor, self.forks)  # the store stays: the next launch begins warm
            self.store.stop_sharing()
            raise LaunchError(
                f"the engine ended by itself: {self.member.last_end}\nIts last lines ({self.log_path}):\n{tail}"
            )

    def stop(self, drain_s: float = 8.0) -> None:
        """Let running requests finish for at most `drain_s` seconds, then end every process."""
        if self.member.process is not None:
            self.member.process.stop(drain_s, self.num_running)
        self.kill()

    def kill(self) -> None:
        """End every process at once, and give the store back."""
        _end(self.ground, self.supervisor, self.forks, self.store)


def launch_engine(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    on_stage: Listener = lambda stage: None,
    on_event: Listener = lambda text: None,
    *,
    borrowed: ForkServer | None = None,
) -> RunningEngine:
    """Start the engine and return when it answered a request through a decode module.

    `on_event` hears, later, of restarts and of modules that cannot come. `borrowed` is a fork server of the caller's,
    made for the same environment; without one, the engine gets its own.
    Effects: on any failure or interruption, no process is left.
    Raises: LaunchError with the engine's own reason and the path of its log.
    """
    check_address(options.host, options.port)
    sweep_leftovers()
    ground, started_at = EngineGround(deployment, options, on_event), time.monotonic()
    supervisor, forks, store = Supervisor([], on_event), None, None
    try:
        store = StoreHold([ground.planned])
        log_path = options.log_path or new_log_path(deployment.config.name)
        if borrowed is None:
            forks = start_fork_server(ground.planned.command, log_path, options.start_timeout_s, on_stage)
        member = supervise_engine(ground, options, log_path, borrowed or forks)
        supervisor.members.append(member)
        supervisor.begin()
        _wait_for_answers(member, deployment, options, on_stage)
    except BaseException:
        _end(ground, supervisor, forks, store)
        raise
    return RunningEngine(
        ground=ground,
        member=member,
        supervisor=supervisor,
        forks=forks,
        api_key=options.api_key,
        admin_key=options.admin_key,
        start_s=time.monotonic() - started_at,
        log_path=log_path,
        store=store,
        watched=watch_folder(deployment.config.modules.dir, member.url, options, on_event),
    )


def _wait_for_answers(
    member: Supervised, deployment: ResolvedDeployment, options: LaunchOptions, on_stage: Listener
) -> None:
    """Nothing is restarted during the start: whatever fails then is a fault to report."""
    assert member.process is not None
    wait_until_listening([(member.process, member.url)], options.api_key, options.start_timeout_s, on_stage)
    on_stage(LAST_STAGE)
    answer_by_engine(member.process, member.url, deployment, options)
    member.state = "running"


def _end(
    ground: EngineGround, supervisor: Supervisor, forks: ForkServer | None, store: StoreHold | None = None
) -> None:
    """End every process, and then give the store back; without it, that stays."""
    supervisor.kill()
    if forks is not None:
        forks.close()
    ground.end()
    if store is not None:
        store.end()
