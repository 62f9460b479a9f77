"""A worker that takes the place of another one: its GPUs, its ports, its share of memory, another role."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.memory import worker_memory
from prefillshare.serving.plan.placement import GpuPlace, place_workers, replace_worker
from prefillshare.serving.plan.processes import PlannedWorker, fill_place, make_command, place_worker
from prefillshare.serving.plan.workers import Worker, decode_worker, prefill_worker


def worker_of_kind(deployment: ResolvedDeployment, module: str | None, taken: Iterable[str]) -> Worker:
    """Return a further worker of a module, a prefill worker for None, with the lowest number that nobody has."""
    names, beginning, number = set(taken), "prefill" if module is None else f"decode-{module}", 0
    while f"{beginning}-{number}" in names:
        number += 1
    name = f"{beginning}-{number}"
    if module is None:
        return prefill_worker(deployment, name)
    [resolved] = [found for found in deployment.modules if found.spec.name == module]
    return decode_worker(deployment, resolved, name)


def plan_in_place(
    deployment: ResolvedDeployment,
    before: PlannedWorker,
    worker: Worker,
    options: LaunchOptions,
    directory: Path,
) -> PlannedWorker:
    """Return `worker` where `before` runs, with the key that all workers of the launch have.

    Raises: ConfigError when it does not fit there.
    """
    gpu = _fit_gpu(deployment, before.worker, worker, before.place.gpu)
    # A new bootstrap port, if any: decode workers that remember another worker at the old one would ask it.
    place = fill_place(before.place, worker, gpu, directory if before.place.kv_events is not None else None)
    command = make_command(deployment, worker, place, options, before.command.api_key, before.store)
    return replace(before, worker=worker, place=place, command=command)


def plan_beside(
    deployment: ResolvedDeployment,
    running: Sequence[PlannedWorker],
    worker: Worker,
    options: LaunchOptions,
    directory: Path,
) -> PlannedWorker:
    """Return `worker` beside those that run, on GPUs that none of them has, with the key of the launch.

    Raises: ConfigError when there is no room for it.
    """
    first = running[0]
    gpu = _find_free_gpu(deployment, running, worker)
    place = place_worker(worker, gpu, directory if deployment.config.router.kv_events else None)
    command = make_command(deployment, worker, place, options, first.command.api_key, first.store)
    can_move = deployment.config.roles.follow_load and not worker.serves_whole_calls
    return PlannedWorker(worker=worker, place=place, command=command, store=first.store, can_move=can_move)


def _find_free_gpu(deployment: ResolvedDeployment, running: Sequence[PlannedWorker], worker: Worker) -> GpuPlace | None:
    if not deployment.gpus:
        return None
    taken = {number for planned in running if planned.place.gpu is not None for number in planned.place.gpu.gpus}
    needed = worker_memory(deployment, worker)
    gpus_each = needed.gpus_each
    # SGLang takes GPUs that follow each other.
    groups = (tuple(range(first, first + gpus_each)) for first in range(len(deployment.gpus) - gpus_each + 1))
    free = next((group for group in groups if taken.isdisjoint(group)), None)
    if free is None:
        raise ConfigError(
            f"{worker.name} needs {gpus_each} of the {len(deployment.gpus)} GPUs for itself, and the workers that run "
            "have them: remove a module, or launch the deployment anew with this one in its file"
        )
    memory = [deployment.gpus[number].memory_bytes for number in free]
    [place] = place_workers([needed], memory)
    return replace(place, gpus=free)


def _fit_gpu(deployment: ResolvedDeployment, before: Worker, after: Worker, gpu: GpuPlace | None) -> GpuPlace | None:
    if gpu is None:
        return None
    memory_bytes = min(deployment.gpus[number].memory_bytes for number in gpu.gpus)
    sizes = worker_memory(deployment, before), worker_memory(deployment, after)
    return replace_worker(gpu, *sizes, memory_bytes)
