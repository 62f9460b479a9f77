"""Which GPUs each worker of a deployment gets, and how much of their memory. Pure: sizes in, places out.

A worker takes `gpus_each` neighbouring GPUs, a group. Groups are aligned, so that two workers have the same GPUs or
none in common. With more workers than groups, whole groups are shared as evenly as possible, the last ones first:
prefill workers come first in a deployment and keep their GPUs for themselves as long as possible.

SGLang takes what is free before it loads as its base and lets the KV cache fill a share of it. Workers that load at the
same time see each other's weights come, so on a shared group each one gets a fixed number of tokens, and a fraction so
high that the number counts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.plan.memory import GIB, Limits, WorkerMemory, gib, reserve_bytes, sglang_static_bytes

_CONTEXT_BYTES = GIB // 2
_LEAST_FOR_COMPUTING_BYTES = 2 * GIB
_LEAST_SHARE = 0.5
"""What a worker keeps at least of the KV cache of the one whose place it takes."""
_SHARED_SLACK_BYTES = GIB // 2
"""What SGLang is told to leave of a shared group's memory; less than the reserve of any worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlace:
    """The GPUs of one worker, and what it may take of each."""

    gpus: tuple[int, ...]
    """Their numbers among those that the launcher sees."""
    num_workers: int = 1
    """Workers that have these GPUs."""
    kv_tokens: int | None = None
    """Tokens of its KV cache, where the GPUs are shared; None leaves them to the file, or to SGLang."""
    mem_fraction: float | None = None
    """Share of the memory that SGLang is told, where the GPUs are shared; None leaves it to the file, or to SGLang."""

    @property
    def first_gpu(self) -> int:
        """SGLang takes its GPUs from here on."""
        return self.gpus[0]


def plan_groups(num_workers: int, num_gpus: int, gpus_each: int) -> list[tuple[int, ...]]:
    """Return the GPUs of each worker, in the workers' order.

    Raises: ConfigError when there is not one group.
    """
    num_groups = min(num_gpus // gpus_each, num_workers)
    if not num_groups:
        raise ConfigError(
            f"tensor_parallel_size is {gpus_each} and {num_gpus} GPUs can be used: set tensor_parallel_size = "
            f"{max(1, num_gpus)} or less under [engine]"
        )
    fewest, num_fuller = divmod(num_workers, num_groups)
    sizes = [fewest + (group >= num_groups - num_fuller) for group in range(num_groups)]
    groups = [tuple(range(group * gpus_each, (group + 1) * gpus_each)) for group in range(num_groups)]
    return [gpus for gpus, size in zip(groups, sizes, strict=True) for _ in range(size)]


def plan_uneven_groups(sizes: Sequence[int], num_gpus: int) -> list[tuple[int, ...]]:
    """Return the GPUs of each worker where workers take different numbers of them: nobody shares then.

    The larger come first, so that each begins at a multiple of its size.
    Raises: ConfigError when the GPUs are too few.
    """
    if sum(sizes) > num_gpus:
        raise ConfigError(
            f"workers with tensor_parallel_size {', '.join(map(str, sizes))} take {sum(sizes)} GPUs, since only "
            f"workers of one size share any, and {num_gpus} can be used: write one size for all, or use fewer workers"
        )
    groups: dict[int, tuple[int, ...]] = {}
    first = 0
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        groups[number] = tuple(range(first, first + sizes[number]))
        first += sizes[number]
    return [groups[number] for number in range(len(sizes))]


def place_deployment(deployment: ResolvedDeployment, workers: Sequence[WorkerMemory]) -> list[GpuPlace | None]:
    """Return the place of each worker of a deployment; None for all of them on a CPU.

    Raises: ConfigError when the GPUs are too few, or their memory does not hold the workers.
    """
    if not deployment.gpus:
        return [None] * len(workers)
    memory = [gpu.memory_bytes for gpu in deployment.gpus]
    return list(place_workers(workers, memory))


def replace_worker(place: GpuPlace, before: WorkerMemory, after: WorkerMemory, memory_bytes: int) -> GpuPlace:
    """Return the place of another worker on the GPUs that `before` had, of which each has `memory_bytes`.

    What its neighbours have stays theirs: where its weights are larger, its KV cache is smaller.
    Raises: ConfigError when it does not fit.
    """
    if place.kv_tokens is None:
        _check_alone(place.gpus, after, memory_bytes)
        return place
    page_size = after.limits.page_size
    left = before.weight_bytes + place.kv_tokens * before.kv_token_bytes - after.weight_bytes
    tokens = min(place.kv_tokens, left // after.kv_token_bytes // page_size * page_size)
    if tokens < max(page_size, place.kv_tokens * _LEAST_SHARE):
        raise ConfigError(
            f"{after.name} does not fit where {before.name} was: its weights take {gib(after.weight_bytes)} GiB of GPU "
            f"{_list_gpus(place.gpus)}, which it shares, those before took {gib(before.weight_bytes)} GiB, and of "
            f"{place.kv_tokens} tokens of KV {max(tokens, 0)} would be left: use more or larger GPUs"
        )
    return replace(place, kv_tokens=tokens)


def place_workers(workers: Sequence[WorkerMemory], gpu_bytes: Sequence[int]) -> list[GpuPlace]:
    """Return the place of each worker; `gpu_bytes` is the memory of every GPU that may be used.

    Raises: ConfigError when a group's memory does not hold its workers.
    """
    sizes = [worker.gpus_each for worker in workers]
    if len(set(sizes)) == 1:
        groups = plan_groups(len(workers), len(gpu_bytes), sizes[0])
    else:
        groups = plan_uneven_groups(sizes, len(gpu_bytes))
    places = []
    for gpus in dict.fromkeys(groups):
        members = [worker for worker, its_gpus in zip(workers, groups, strict=True) if its_gpus == gpus]
        memory_bytes = min(gpu_bytes[gpu] for gpu in gpus)
        places += _fill(gpus, members, memory_bytes)
    return places


def _fill(gpus: tuple[int, ...], members: list[WorkerMemory], memory_bytes: int) -> list[GpuPlace]:
    """The places of the workers that have the same GPUs."""
    if len(members) == 1:
        _check_alone(gpus, members[0], memory_bytes)
        return [GpuPlace(gpus=gpus)]
    reserve = max(reserve_bytes(each, memory_bytes, len(gpus), each.limits.chunk_tokens) for each in members)
    tokens = [_share_tokens(worker, members, memory_bytes, reserve) for worker in members]
    used = sum(
        worker.weight_bytes + count * worker.kv_token_bytes + reserve
        for worker, count in zip(members, tokens, strict=True)
    )
    if used > memory_bytes or min(tokens) < members[0].limits.page_size:
        raise ConfigError(_explain_shortage(gpus, members, memory_bytes, reserve, used))
    fraction = int((1 - _SHARED_SLACK_BYTES / memory_bytes) * 1000) / 1000
    return [GpuPlace(gpus=gpus, num_workers=len(members), kv_tokens=count, mem_fraction=fraction) for count in tokens]


def _share_tokens(worker: WorkerMemory, members: list[WorkerMemory], memory_bytes: int, reserve: int) -> int:
    """Tokens of one worker's KV cache: as the file says, else an equal part of what the weights of all leave."""
    limits = worker.limits
    if limits.max_total_tokens is not None:
        return limits.max_total_tokens
    if limits.mem_fraction is not None:
        free = int(memory_bytes * limits.mem_fraction) - worker.weight_bytes
    else:
        weights = sum(member.weight_bytes for member in members)
        free = (memory_bytes - weights) // len(members) - reserve
    return max(0, free) // worker.kv_token_bytes // limits.page_size * limits.page_size


def _check_alone(gpus: tuple[int, ...], worker: WorkerMemory, memory_bytes: int) -> None:
    """A worker with GPUs of its own: its weights must leave room, and a cache of a given size must fit."""
    limits = worker.limits
    if not limits.is_exact:
        return
    static = _static_bytes(memory_bytes, len(gpus), limits)
    # A given number of tokens is only held against the whole GPU where SGLang chooses the fraction.
    share = static if limits.mem_fraction is not None else max(static, memory_bytes - GIB)
    kv_bytes = (limits.max_total_tokens or 0) * worker.kv_token_bytes
    page_bytes = limits.page_size * worker.kv_token_bytes
    if worker.weight_bytes + page_bytes > static or worker.weight_bytes + kv_bytes > share:
        needed = worker.weight_bytes + max(kv_bytes, page_bytes)
        left = static if worker.weight_bytes + page_bytes > static else share
        fixes = _suggest_fixes(gpus, worker, memory_bytes, needed, left, limits)
        raise ConfigError(
            f"{worker.name} needs {gib(worker.weight_bytes)} GiB for weights and {gib(kv_bytes)} GiB for KV on each of "
            f"its GPUs ({_list_gpus(gpus)}), and {gib(left)} of {gib(memory_bytes)} GiB are for them"
            f"{_tell_fraction(limits)}: {', or '.join(fixes)}"
        )


def _static_bytes(memory_bytes: int, gpus_each: int, limits: Limits) -> int:
    """What SGLang gives to weights and KV: a share of what is free beside its CUDA context."""
    if limits.mem_fraction is not None:
        return int((memory_bytes - _CONTEXT_BYTES) * limits.mem_fraction)
    return sglang_static_bytes(memory_bytes, gpus_each, limits.chunk_tokens) - _CONTEXT_BYTES


def _tell_fraction(limits: Limits) -> str:
    return f" by mem_fraction_static = {limits.mem_fraction}" if limits.mem_fraction is not None else ""


def _suggest_fixes(
    gpus: tuple[int, ...], worker: WorkerMemory, memory_bytes: int, needed: int, left: int, limits: Limits
) -> Iterator[str]:
    most = (left - worker.weight_bytes) // worker.kv_token_bytes // limits.page_size * limits.page_size
    if limits.max_total_tokens is not None and most >= limits.page_size:
        yield f"set max_total_tokens = {most} or less under [engine]"
    if needed + _LEAST_FOR_COMPUTING_BYTES <= memory_bytes:
        fraction = math.ceil(needed / (memory_bytes - _CONTEXT_BYTES) * 100) / 100
        yield f"set mem_fraction_static = {fraction} or more under [engine]"
    yield f"set tensor_parallel_size = {2 * len(gpus)} or use GPUs with more memory"


def _explain_shortage(
    gpus: tuple[int, ...],
    members: list[WorkerMemory],
    memory_bytes: int,
    reserve: int,
    used: int,
) -> str:
    limits = members[0].limits
    weights = sum(member.weight_bytes for member in members)
    rest = (memory_bytes - weights) // len(members) - reserve
    most = rest // max(member.kv_token_bytes for member in members) // limits.page_size * limits.page_size
    fix = "use more or larger GPUs, or fewer workers"
    if limits.max_total_tokens is not None and most >= limits.page_size:
        fix = f"set max_total_tokens = {most} or less under [engine], or {fix}"
    elif limits.mem_fraction is not None and most >= limits.page_size:
        most_fraction = int((memory_bytes / len(members) - reserve) / memory_bytes * 100) / 100
        fix = f"set mem_fraction_static = {most_fraction} or less, which each worker takes for itself, or remove it"
    return (
        f"{len(members)} workers ({', '.join(member.name for member in members)}) share GPU {_list_gpus(gpus)} of "
        f"{gib(memory_bytes)} GiB and need {gib(used)} GiB ({gib(weights)} for weights, {gib(reserve)} for each "
        f"worker's own use): {fix}"
    )


def _list_gpus(gpus: tuple[int, ...]) -> str:
    return ",".join(map(str, gpus))
