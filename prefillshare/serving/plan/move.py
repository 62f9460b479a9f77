"""A worker that takes the place of another one: its GPUs, its ports, its share of memory, another role."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.memory import worker_memory
from prefillshare.serving.plan.placement import GpuPlace, replace_worker
from prefillshare.serving.plan.processes import PlannedWorker, fill_place, make_command
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


def _fit_gpu(deployment: ResolvedDeployment, before: Worker, after: Worker, gpu: GpuPlace | None) -> GpuPlace | None:
    if gpu is None:
        return None
    memory_bytes = min(deployment.gpus[number].memory_bytes for number in gpu.gpus)
    sizes = worker_memory(deployment, before), worker_memory(deployment, after)
    return replace_worker(gpu, *sizes, memory_bytes)
