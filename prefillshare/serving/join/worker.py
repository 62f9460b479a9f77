"""One worker of a disaggregated deployment, started and looked after on this machine; routers elsewhere use it.

What decides where workers run (systemd, Slurm, Kubernetes, a person) starts as many of these as it likes; the workers
make themselves known.
"""

import contextlib
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prefillshare.direct import parse_server
from prefillshare.errors import ConfigError, LaunchError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.open_files import raise_limit
from prefillshare.serving.join.announcer import Announcer
from prefillshare.serving.join.ground import Choose, JoinGround
from prefillshare.serving.machine.leftovers import sweep_leftovers
from prefillshare.serving.machine.ports import check_address, release
from prefillshare.serving.options import LaunchOptions, Listener
from prefillshare.serving.plan.processes import PlannedWorker, plan_joining_worker
from prefillshare.serving.plan.workers import Worker, decode_worker, prefill_worker
from prefillshare.serving.run.engine_load import count_running
from prefillshare.serving.run.forks import ForkServer
from prefillshare.serving.run.members import log_path_of, supervise_worker
from prefillshare.serving.run.moves import Mover
from prefillshare.serving.run.readiness import start_fork_server, wait_until_listening
from prefillshare.serving.run.record import ProcessRecord
from prefillshare.serving.run.router_process import describe_worker
from prefillshare.serving.run.store_hold import StoreHold
from prefillshare.serving.run.supervisor import Supervised, Supervisor


@dataclass(slots=True, kw_only=True)
class JoinedWorker:
    """A worker that answers and makes itself known."""

    deployment: ResolvedDeployment
    """The deployment that it is a part of."""
    ground: JoinGround
    """What it is, and where it listens."""
    mover: Mover | None
    """Starts it in another role when a router says so; None where it stays what it is."""
    supervisor: Supervisor
    """Starts it again when it dies."""
    forks: ForkServer | None
    """What it is forked from, to be ended with it; None where it is a program, or that is a borrowed one."""
    announcer: Announcer
    """Tells the routers of it."""
    routers: tuple[str, ...]
    """Their addresses."""
    log_path: Path
    """File that holds what it says."""
    start_s: float
    """Seconds from the start to its first answer."""
    store: StoreHold
    """Its hold on the store of its deployment on this machine."""
    is_dismissed: bool = False
    """Whether a router said that it was told to leave."""

    @property
    def planned(self) -> PlannedWorker:
        """What it is now."""
        return self.ground.workers[0]

    @property
    def member(self) -> Supervised:
        """Its processes."""
        return self.supervisor.members[0]

    @property
    def url(self) -> str:
        """Address for clients: that of the first router."""
        return self.routers[0]

    @property
    def api_key(self) -> str | None:
        """Key that the worker wants; routers know it."""
        return self.planned.command.api_key

    @property
    def pid(self) -> int:
        """Process id of the worker; 0 while it does not run."""
        return self.member.process.pid if self.member.process else 0

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names that clients may put into "model" and that this worker answers for."""
        module = self.planned.worker.module
        return (module,) if module is not None else (self.deployment.config.prefill.name,)

    def processes(self) -> list[ProcessRecord]:
        """Return the worker, for `prefillshare ps`."""
        return [self.member.record()]

    def num_running(self) -> int | None:
        """Return how many calls the worker has, as :func:`count_running` says it."""
        return count_running(self.planned.place.url, self.api_key)

    def follow(self, routers: Sequence[str]) -> None:
        """Tell these routers of the worker from now on."""
        self.routers = tuple(routers)
        self.announcer.follow(routers)

    def step(self) -> None:
        """Look after the worker once, and make it known when it is time to.

        Raises: LaunchError when it is given up.
        """
        if self.mover is not None:
            self.mover.step()
        self.supervisor.step()
        if self.member.process is not None:
            self.log_path = self.member.process.log_path
        if self.member.state == "failed":
            reason = self.member.last_end
            self.kill()
            raise LaunchError(f"{self.planned.worker.name} is given up: {reason}; read {self.log_path}")
        # One that is being started again stays known: its routers see by themselves when it is back.
        # One that moves is no more what it was, and not yet what it will be.
        if self.mover is None or not self.mover.is_moving:
            self.is_dismissed = self.announcer.step() or self.is_dismissed

    def stop(self, drain_s: float = 8.0) -> None:
        """Leave the routers, let running calls finish for at most `drain_s` seconds, then end every process."""
        deadline = time.monotonic() + drain_s
        # One router has told it to leave: the others must hear of it, too.
        if not self.is_dismissed or len(self.routers) > 1:
            self.announcer.leave(drain_s)
        if self.member.process is not None:
            self.member.process.stop(max(0.0, deadline - time.monotonic()), self.num_running)
        self.kill()

    def kill(self) -> None:
        """End every process at once, and give the store back."""
        self.supervisor.kill()
        if self.forks is not None:
            self.forks.close()
        self.ground.end()
        self.store.end()


def check_router(url: str, option: str = "--join") -> str:
    """Return the address of a router, given by `option`, without what it needs not.

    Raises: ConfigError when it is none.
    """
    bare = url.rstrip("/")
    if not _is_bare_address(bare):
        raise ConfigError(f"{option} {url!r} is not the address of a router: use one such as http://10.0.0.1:30000")
    return bare


def _is_bare_address(url: str) -> bool:
    """Whether `url` has scheme, host and maybe a port, and nothing else."""
    address = parse_server(url)
    if address is None:
        return False
    return address.path in ("", "/") and not (address.userinfo or address.query or address.fragment)


def choose_worker(deployment: ResolvedDeployment, role: str, module: str | None, name: str | None) -> Worker:
    """Return the worker of `role` that this machine is to run.

    Raises: ConfigError when the deployment has none of the kind.
    """
    if deployment.config.topology != "disaggregated":
        raise ConfigError(
            f'{deployment.config.name} has topology = "colocated", which has no workers: write topology = '
            '"disaggregated", or use `prefillshare launch`'
        )
    where = socket.gethostname()
    if role == "prefill":
        if module is not None:
            raise ConfigError(f"--module {module} is for decode workers, a prefill worker serves all: leave it out")
        return prefill_worker(deployment, name or f"prefill-{where}")
    modules = {resolved.spec.name: resolved for resolved in deployment.modules}
    if module not in modules:
        what = "a decode worker needs --module" if module is None else f"there is no module {module!r}"
        raise ConfigError(f"{what}: choose one of {', '.join(modules)}")
    return decode_worker(deployment, modules[module], name or f"decode-{module}-{where}")


def _begin(
    supervisor: Supervisor,
    member: Supervised,
    planned: PlannedWorker,
    key: str,
    options: LaunchOptions,
    on_stage: Listener,
) -> Path:
    """Start the worker's process, wait until it listens, and return the path of its log."""
    supervisor.members.append(member)
    supervisor.begin()
    assert member.process is not None
    wait_until_listening([(member.process, planned.place.url)], key, options.start_timeout_s, on_stage)
    member.state = "running"
    return member.process.log_path


def launch_worker(
    deployment: ResolvedDeployment,
    worker: Worker,
    options: LaunchOptions,
    routers: Sequence[str],
    on_stage: Listener = lambda stage: None,
    on_event: Listener = lambda text: None,
    *,
    choose: Choose | None = None,
    borrowed: ForkServer | None = None,
) -> JoinedWorker:
    """Start `worker` at the address of `options`, whose admin key lets it join `routers`; return when it answers.

    `choose` makes it in another role, when a router says so; without it, it stays what it is. So does whoever serves
    whole calls.
    `borrowed` is a fork server of the caller's, made for the same environment; without one, the worker gets its own.
    Effects: on any failure or interruption, no process is left.
    Raises: LaunchError with the worker's own reason and the path of its log.
    """
    check_address(options.host, options.port)
    sweep_leftovers()
    raise_limit()
    started_at, key = time.monotonic(), secrets.token_hex(24)
    choose = None if worker.serves_whole_calls else choose
    supervisor, forks = Supervisor([], on_event), None
    with contextlib.ExitStack() as undo:
        planned = plan_joining_worker(deployment, worker, options, key, can_move=choose is not None)
        undo.callback(release, planned.place.held_ports)
        announcer = Announcer(routers, _describe(deployment, planned), options.admin_key or "", on_event)
        announcer.ask_ahead()
        store = StoreHold([planned])
        undo.callback(store.end)
        if borrowed is None:
            log_path = log_path_of(deployment, options, "forks")
            forks = start_fork_server(planned.command, log_path, options.start_timeout_s, on_stage)
            if forks is not None:
                undo.callback(forks.close)
        undo.callback(supervisor.kill)
        member = supervise_worker(planned, deployment, options, borrowed or forks)
        log_path = _begin(supervisor, member, planned, key, options, on_stage)
        undo.pop_all()
    ground = JoinGround(deployment, options, planned, announcer, choose=choose, describe=partial(_describe, deployment))
    mover = _make_mover(ground, supervisor, deployment, options, borrowed or forks, on_event)
    return JoinedWorker(
        deployment=deployment,
        ground=ground,
        mover=mover if choose is not None else None,
        supervisor=supervisor,
        forks=forks,
        announcer=announcer,
        routers=tuple(routers),
        log_path=log_path,
        start_s=time.monotonic() - started_at,
        store=store,
    )


def _make_mover(
    ground: JoinGround,
    supervisor: Supervisor,
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    forks: ForkServer | None,
    say: Listener,
) -> Mover:
    """Return what starts the worker in another role."""
    return Mover(
        ground,
        supervisor=supervisor,
        watch=lambda planned: supervise_worker(planned, deployment, options, forks),
        say=say,
        start_timeout_s=options.start_timeout_s,
    )


def _describe(deployment: ResolvedDeployment, planned: PlannedWorker) -> dict[str, object]:
    """What routers are told."""
    key = planned.command.api_key
    return {**describe_worker(planned), "api_key": key, "fingerprint": deployment.fingerprint}


def name_by_port(worker: Worker, port: int) -> Worker:
    """Return the worker with a name that no other on this machine has."""
    return replace(worker, name=f"{worker.name}-{port}")
