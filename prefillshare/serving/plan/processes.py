"""Plans the workers of a deployment: checks what can be checked, gives each a place, and makes its command."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.peer_keys import PeerKeys
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import DEFAULT_HOST, LaunchOptions
from prefillshare.serving.plan.arguments import worker_command
from prefillshare.serving.plan.budget import planned_memory
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.plan.cpu import runs_on_cpu
from prefillshare.serving.plan.memory import worker_memory
from prefillshare.serving.plan.place import Place
from prefillshare.serving.plan.placement import GpuPlace, place_deployment
from prefillshare.serving.plan.preflight import check_sizes, check_transfer
from prefillshare.serving.plan.store import plan_store
from prefillshare.serving.plan.tenants import check_operators_key
from prefillshare.serving.plan.workers import Worker, engine_of, narrow, workers_of

if TYPE_CHECKING:
    from prefillshare.store import StoreSettings

RUN_DIRECTORY = Path("$PREFILLSHARE_RUN")
"""Stands for the folder of a launch where nothing is started, for people to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWorker:
    """A worker with its place and the command that starts it there."""

    worker: Worker
    """What it is."""
    place: Place
    """Where it listens."""
    command: ProcessCommand
    """What to run."""
    store: "StoreSettings | None" = None
    """The store of its deployment."""
    can_move: bool = False
    """Whether whoever starts it starts it in another role when a router says so."""


def plan_engine(deployment: ResolvedDeployment, options: LaunchOptions) -> PlannedWorker:
    """Return the engine of a colocated deployment as `options` want it.

    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    check_operators_key(deployment.config, options.api_key)  # the file is the engine's to read
    runs_on_cpu(deployment)  # says what is wrong with the device before any size is computed
    worker = engine_of(deployment)
    check_sizes(deployment, worker.role)
    place_deployment(deployment, planned_memory(deployment))  # its weights must fit
    place = Place(host=options.host, port=options.port, nccl_port=free_port())
    store = plan_store(deployment)
    command = worker_command(
        deployment, worker, place, api_key=options.api_key, extra_args=options.extra_args, store=store
    )
    command = replace(command, admin_key=options.admin_key)
    return PlannedWorker(worker=worker, place=place, command=command, store=store)


def plan_workers(
    deployment: ResolvedDeployment,
    options: LaunchOptions,
    worker_key: str | None = None,
    directory: Path = RUN_DIRECTORY,
) -> tuple[PlannedWorker, ...]:
    """Return every worker of a disaggregated deployment on free ports of the loopback interface.

    `directory` is where their sockets lie; the default is a name for people to read.
    Raises: ConfigError when the machine lacks what the deployment asks for.
    """
    check_transfer(deployment)
    check_workers(deployment, workers_of(deployment))
    gpus = place_deployment(deployment, planned_memory(deployment))
    planned, store = [], plan_store(deployment)
    for worker, gpu in zip(workers_of(deployment), gpus, strict=True):
        place = place_worker(worker, gpu, directory if deployment.config.router.kv_events else None)
        command = make_command(deployment, worker, place, options, worker_key, store)
        can_move = deployment.config.roles.follow_load and not worker.serves_whole_calls
        planned.append(PlannedWorker(worker=worker, place=place, command=command, store=store, can_move=can_move))
    return tuple(planned)


def plan_joining_worker(
    deployment: ResolvedDeployment,
    worker: Worker,
    options: LaunchOptions,
    worker_key: str,
    *,
    can_move: bool = False,
) -> PlannedWorker:
    """Return one worker of a disaggregated deployment that listens at the address of `options`, for others to reach.

    The GPUs that this process sees are its own.
    Raises: ConfigError when the machine lacks what the worker needs.
    """
    check_transfer(deployment)
    check_workers(deployment, [worker])
    [gpu] = place_deployment(deployment, [worker_memory(deployment, worker)])
    host, store = options.host, plan_store(deployment)
    events = f"tcp://*:{free_port(host, options.ports)}" if deployment.config.router.kv_events else None
    place = Place(
        host=host,
        port=options.port,
        nccl_port=free_port(host, options.ports),
        bootstrap_port=free_port(host, options.ports) if worker.role == "prefill" else None,
        gpu=gpu,
        kv_events=events,
        peer_host=host,
    )
    command = make_command(deployment, worker, place, options, worker_key, store)
    return PlannedWorker(worker=worker, place=place, command=command, store=store, can_move=can_move)


def check_workers(deployment: ResolvedDeployment, workers: Sequence[Worker]) -> None:
    """Check device and sizes of each worker, which differ where roles or modules have engine settings of their own.

    Raises: ConfigError that names the worker, where it has.
    """
    for worker in workers:
        narrowed = narrow(deployment, worker)
        try:
            runs_on_cpu(narrowed)  # says what is wrong with the device before any size is computed
            check_sizes(narrowed, worker.role)
        except ConfigError as error:
            if narrowed is deployment:
                raise
            raise ConfigError(f"{worker.name}: {error}") from None


def make_command(
    deployment: ResolvedDeployment,
    worker: Worker,
    place: Place,
    options: LaunchOptions,
    worker_key: str | None,
    store: "StoreSettings | None",
) -> ProcessCommand:
    """Return what starts `worker` of a disaggregated deployment at `place`."""
    # With an admin key, workers of other machines may join these: it is what they have in common.
    peers = PeerKeys.of_admin_key(options.admin_key).secret if options.admin_key else worker_key
    return worker_command(
        deployment,
        worker,
        place,
        api_key=worker_key,
        peer_secret=peers,
        extra_args=options.extra_args,
        store=store,
    )


def place_worker(worker: Worker, gpu: GpuPlace | None, event_directory: Path | None = None) -> Place:
    """Return free ports for a worker of a disaggregated deployment; KV events, if wanted, go to `event_directory`."""
    place = Place(host=DEFAULT_HOST, port=free_port(), nccl_port=free_port())
    return fill_place(place, worker, gpu, event_directory)


def fill_place(place: Place, worker: Worker, gpu: GpuPlace | None, event_directory: Path | None) -> Place:
    """Return the place with what `worker` needs there beside its server, a bootstrap port of its own included."""
    # A socket's path must be short, however long the module's name is.
    socket = f"{zlib.crc32(worker.name.encode()):08x}.kv"
    return replace(
        place,
        bootstrap_port=free_port() if worker.role == "prefill" else None,
        gpu=gpu,
        kv_events=None if event_directory is None else f"ipc://{event_directory}/{socket}",
    )
