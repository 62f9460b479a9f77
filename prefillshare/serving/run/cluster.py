"""A disaggregated deployment that runs: prefill workers, decode workers and a router, each a supervised process.

Workers listen on the loopback interface only, with a key made for this launch; clients reach the router.
"""

import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefillshare.errors import LaunchError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.naming.changes import Change, apply_changes
from prefillshare.places import new_private_folder
from prefillshare.serving.machine.leftovers import sweep_leftovers
from prefillshare.serving.machine.ports import check_address
from prefillshare.serving.options import LaunchOptions, Listener
from prefillshare.serving.plan.processes import PlannedWorker, plan_workers
from prefillshare.serving.run.engine_load import count_calls
from prefillshare.serving.run.first_answers import answer_through_router
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.launch_ground import LaunchGround
from prefillshare.serving.run.members import log_path_of, supervise_router, supervise_worker
from prefillshare.serving.run.module_changes import ModuleChanger
from prefillshare.serving.run.moves import Mover
from prefillshare.serving.run.process import EngineProcess
from prefillshare.serving.run.progress import LAST_STAGE
from prefillshare.serving.run.readiness import start_fork_server, wait_until_healthy, wait_until_listening
from prefillshare.serving.run.record import ProcessRecord
from prefillshare.serving.run.router_process import RouterFile
from prefillshare.serving.run.served_file import read_alias_changes
from prefillshare.serving.run.store_hold import StoreHold
from prefillshare.serving.run.supervisor import Supervised, Supervisor
from prefillshare.serving.run.watched import WatchedFolder, watch_folder


@dataclass(slots=True, kw_only=True)
class RunningCluster:
    """A disaggregated deployment that answers."""

    deployment: ResolvedDeployment
    """What it serves."""
    ground: LaunchGround
    """Its workers."""
    router: Supervised
    """The router, whose address is that of the deployment."""
    supervisor: Supervisor
    """Looks after workers and router."""
    forks: ForkServer | None
    """What workers are forked from, to be ended with them; None where they are programs, or it is a borrowed one."""
    log_path: Path
    """File that holds what the router says."""
    directory: Path
    """Private files of this launch, removed in the end."""
    api_key: str | None
    """Key that clients must send."""
    admin_key: str | None
    """Key for changes of its modules and workers."""
    start_s: float
    """Seconds from the start to the first answer."""
    store: StoreHold
    """Its hold on the deployment's store."""
    changer: ModuleChanger | None = None
    """Changes its modules; None where it starts no workers."""
    watched: WatchedFolder | None = None
    """Folder from which modules come; None without one."""
    mover: Mover | None = None
    """Changes their roles; None where they stay what they are."""

    @property
    def workers(self) -> tuple[PlannedWorker, ...]:
        """Its workers as they are now."""
        return self.ground.workers

    @property
    def url(self) -> str:
        """Address for clients on this machine, without a path."""
        return self.router.url

    @property
    def pid(self) -> int:
        """Process id of the router."""
        return self.router.process.pid if self.router.process else 0

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name a client may put into "model"."""
        aliases = apply_changes(self.deployment.config.aliases, self.alias_changes())
        return (*(module.spec.name for module in self.ground.deployment.modules), *aliases)

    def alias_changes(self) -> dict[str, Change]:
        """Return what has changed about the aliases since the launch."""
        return read_alias_changes(self.ground.aliases_file)

    def processes(self) -> list[ProcessRecord]:
        """Return workers and router, for `prefillshare ps`."""
        return [member.record() for member in self.supervisor.members]

    def num_running(self) -> int | None:
        """Return how many calls the router works on, as :func:`count_calls` says it."""
        return count_calls(self.url, self.api_key)

    def step(self) -> None:
        """Look after every process once.

        Effects: starts again what died.
        Raises: LaunchError when the deployment can serve nothing any more.
        """
        # A router that is away answers nothing, and waiting for it would hold up its own start.
        if _is_running(self.router):
            # One after the other: both start and end workers.
            if self.changer is not None:
                self.changer.step()
            if self.watched is not None:
                self.watched.step()
            if self.mover is not None and not (self.changer is not None and self.changer.is_changing):
                self.mover.step()
        self.supervisor.step()
        self.store.step()
        if (role := self.supervisor.lost_role()) is not None:
            _end(self.supervisor, self.forks, self.directory)  # the store stays: the next launch begins warm
            self.store.stop_sharing()
            raise LaunchError(f"every {role} process is given up, so nothing can be served: read {self.log_path}")

    def stop(self, drain_s: float = 8.0) -> None:
        """Let running calls finish for at most `drain_s` seconds, then end every process."""
        # The router alone is asked to drain: calls run through it, and its workers must live until they end.
        if self.router.process is not None:
            self.router.process.stop(drain_s, self.num_running)
        self.kill()

    def kill(self) -> None:
        """End every process at once, and give the store back."""
        _end(self.supervisor, self.forks, self.directory, self.store)


def launch_cluster(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    on_stage: Listener = lambda stage: None,
    on_event: Listener = lambda text: None,
    *,
    borrowed: ForkServer | None = None,
) -> RunningCluster:
    """Start workers and router and return when every decode module answered a request through the router.

    `on_event` hears, now and later, of restarts. `borrowed` is a fork server of the caller's, made for the same
    environment; without one, the workers get their own.
    Effects: on any failure or interruption, no process is left.
    Raises: LaunchError with the reason of the process that failed and the path of its log.
    """
    check_address(options.host, options.port)
    sweep_leftovers()
    started_at, key = time.monotonic(), secrets.token_hex(24)
    # Nobody else need know it but this user's commands: only with one may workers and modules be changed.
    options = replace(options, admin_key=options.admin_key or secrets.token_hex(24))
    directory = new_private_folder()
    forks, store, supervisor = None, None, Supervisor([], on_event)
    try:
        # In this order: ports are taken before the router is told of them, and the fork server is there before workers.
        workers = plan_workers(deployment, options, key, directory)
        store = StoreHold(workers)
        file = RouterFile.create(directory, deployment, options, workers, key)
        if borrowed is None:
            log_path = log_path_of(deployment, options, "forks")
            forks = start_fork_server(workers[0].command, log_path, options.start_timeout_s, on_stage)
        router = supervise_router(file, options)
        supervisor.members += [supervise_worker(worker, deployment, options, borrowed or forks) for worker in workers]
        # Last, so that `begin` starts it when its workers are on their way; it waits for them itself.
        supervisor.members.append(router)
        supervisor.begin()
        _wait_for_all(supervisor, router, key, options, on_stage)
    except BaseException:
        _end(supervisor, forks, directory, store)
        raise
    ground = LaunchGround(deployment, options, workers, file, router.url)
    mover, changer = _make_movers(ground, supervisor, options, borrowed or forks, on_event)
    return RunningCluster(
        deployment=deployment,
        ground=ground,
        router=router,
        supervisor=supervisor,
        forks=forks,
        log_path=file.log_path,
        directory=directory,
        api_key=options.api_key,
        admin_key=options.admin_key,
        start_s=time.monotonic() - started_at,
        store=store,
        mover=mover if _moves_workers(deployment) else None,
        changer=changer,
        watched=watch_folder(deployment.config.modules.dir, router.url, options, on_event),
    )


def _make_movers(
    ground: LaunchGround, supervisor: Supervisor, options: LaunchOptions, forks: ForkServer | None, say: Listener
) -> tuple[Mover, ModuleChanger]:
    """Return who moves workers between roles, and who changes modules; a change waits while a worker moves."""

    def watch(worker: PlannedWorker) -> Supervised:
        return supervise_worker(worker, ground.deployment, options, forks)

    timeout_s = options.start_timeout_s
    mover = Mover(ground, supervisor=supervisor, watch=watch, say=say, start_timeout_s=timeout_s)
    changer = ModuleChanger(
        ground=ground,
        supervisor=supervisor,
        watch=watch,
        say=say,
        start_timeout_s=timeout_s,
        may_begin=lambda: not mover.is_moving,
    )
    return mover, changer


def _is_running(member: Supervised) -> bool:
    return member.state == "running" and member.process is not None and member.process.exit_code() is None


def _moves_workers(deployment: ResolvedDeployment) -> bool:
    roles = deployment.config.roles
    return roles.follow_load and not roles.dry_run


def _end(supervisor: Supervisor, forks: ForkServer | None, directory: Path, store: StoreHold | None = None) -> None:
    """End every process, and then give the store back; without it, that stays."""
    supervisor.kill()
    if forks is not None:
        forks.close()
    shutil.rmtree(directory, ignore_errors=True)
    if store is not None:
        store.end()


def _wait_for_all(
    supervisor: Supervisor, router: Supervised, key: str, options: LaunchOptions, on_stage: Listener
) -> None:
    """Nothing is restarted during the start: whatever fails then is a fault to report."""
    workers = [member for member in supervisor.members if member is not router]
    started, [(router_process, url)] = _list_started(workers), _list_started([router])
    wait_until_listening(started, key, options.start_timeout_s, on_stage)
    wait_until_listening([(router_process, url)], options.api_key, options.start_timeout_s, lambda stage: None)
    on_stage(LAST_STAGE)
    processes = [process for process, _ in started]
    wait_until_healthy([*processes, router_process], url, options.api_key, options.start_timeout_s)
    for module in dict.fromkeys(worker.module for worker in workers if worker.module):
        answer_through_router(module, router_process, processes, url, options)
    # Known by now: `step` need not ask each of them once more.
    for member in supervisor.members:
        member.state = "running"


def _list_started(members: Sequence[Supervised]) -> list[tuple[EngineProcess, str]]:
    return [(member.process, member.url) for member in members if member.process]
