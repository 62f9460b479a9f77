"""Which workers a deployment has, and what each takes of which device: what `launch --dry-run` shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefillshare.accelerators import VISIBLE_VARIABLE, Gpu, visible_devices
from prefillshare.modules.deployment import GPU_HAND_OFF_PAGE, ResolvedDeployment
from prefillshare.modules.fingerprint import geometry
from prefillshare.serving.plan.memory import GIB, WorkerMemory, reserve_bytes, sglang_static_bytes, worker_memory
from prefillshare.serving.plan.placement import GpuPlace, place_deployment
from prefillshare.serving.plan.workers import workers_of

_MANY_DESCRIPTORS = 8_000_000
"""Each takes 24 bytes before NIXL's own copies, once for a worker itself and once for each of its peers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one worker takes of each of its GPUs, or of the host's memory."""

    name: str
    """The worker."""
    gpus: tuple[str, ...]
    """Its GPUs by index, and by what CUDA_VISIBLE_DEVICES calls them where that differs; empty on a CPU."""
    num_sharing: int
    """Workers on these GPUs."""
    device_bytes: int | None
    """Memory of the smallest of its GPUs; None on a CPU."""
    weight_bytes: int
    """Weights and slots for adapters."""
    kv_bytes: int
    """KV cache."""
    kv_tokens: int
    """The same in tokens."""
    is_measured_at_start: bool
    """Whether SGLang sizes the KV cache when it starts, so that it is only known about."""
    other_bytes: int
    """Left for CUDA graphs and computing."""


def planned_memory(deployment: ResolvedDeployment) -> list[WorkerMemory]:
    """Return what each process that holds weights takes, in the order of the start."""
    return [worker_memory(deployment, worker) for worker in workers_of(deployment)]


def plan_budgets(deployment: ResolvedDeployment, cpu_kv_tokens: int) -> list[Budget]:
    """Return what every worker takes; `cpu_kv_tokens` is the size of a KV cache on a CPU.

    Raises: ConfigError when the GPUs do not hold the workers.
    """
    sizes = planned_memory(deployment)
    places = place_deployment(deployment, sizes)
    return [
        _budget_on_cpu(size, size.limits.max_total_tokens or cpu_kv_tokens)
        if place is None
        else _budget_on_gpu(deployment, size, place)
        for size, place in zip(sizes, places, strict=True)
    ]


def device_warnings(deployment: ResolvedDeployment, planned: Sequence[Budget]) -> list[str]:
    """Return what the user should know about the devices although it can be served."""
    warnings = []
    num_mig = sum(entry.startswith("MIG-") for entry in visible_devices() or ())
    if deployment.gpus and num_mig > 1:
        warnings.append(
            f"{VISIBLE_VARIABLE} names {num_mig} MIG instances and CUDA gives one to a process: only the first is used"
        )
    config = deployment.config
    if deployment.gpus and config.topology == "disaggregated":
        warnings += _uneven_warnings(deployment)
    if deployment.gpus and config.topology == "disaggregated" and config.transfer.backend == "nixl":
        warnings += _descriptor_warnings(deployment, max(planned, key=lambda budget: budget.kv_tokens))
    return warnings


def _uneven_warnings(deployment: ResolvedDeployment) -> list[str]:
    config = deployment.config
    prefill = config.engine_of("prefill").tensor_parallel_size
    handed = [module.name for module in config.decode if module.share]
    others = {name: config.engine_of("decode", name).tensor_parallel_size for name in handed}
    differing = [f"{name} {size}" for name, size in others.items() if size != prefill]
    if not differing:
        return []
    return [
        f"prefill workers have tensor_parallel_size {prefill} and decode workers another one ({', '.join(differing)}): "
        "SGLang hands KV over head by head then, which was not tried with shared prefill; run `prefillshare verify`"
    ]


def _descriptor_warnings(deployment: ResolvedDeployment, largest: Budget) -> list[str]:
    """NIXL prepares a descriptor for each page of each layer's keys and values, for itself and for each peer."""
    page, num_layers = deployment.page_size, int(geometry(deployment.prefill_path)["num_layers"])
    num_descriptors = largest.kv_tokens // page * num_layers * 2
    if num_descriptors <= _MANY_DESCRIPTORS:
        return []
    fixes = [] if page >= GPU_HAND_OFF_PAGE else [f"set page_size = {GPU_HAND_OFF_PAGE}"]
    most = _MANY_DESCRIPTORS // (2 * num_layers) * max(page, GPU_HAND_OFF_PAGE)
    fixes.append(f"set max_total_tokens = {most} or less")
    return [
        f"{largest.name} has {largest.kv_tokens:,} tokens of KV in pages of {page}, for which NIXL prepares "
        f"{num_descriptors:,} descriptors per peer, which takes memory and makes the first hand-off slow: "
        f"{', or '.join(fixes)} under [engine]"
    ]


def _budget_on_cpu(size: WorkerMemory, tokens: int) -> Budget:
    return Budget(
        name=size.name,
        gpus=(),
        num_sharing=1,
        device_bytes=None,
        weight_bytes=size.weight_bytes,
        kv_bytes=tokens * size.kv_token_bytes,
        kv_tokens=tokens,
        is_measured_at_start=False,
        other_bytes=0,
    )


def _budget_on_gpu(deployment: ResolvedDeployment, size: WorkerMemory, place: GpuPlace) -> Budget:
    limits, gpus = size.limits, deployment.gpus
    memory_bytes = min(gpus[gpu].memory_bytes for gpu in place.gpus)
    tokens = place.kv_tokens or limits.max_total_tokens
    is_shared = place.kv_tokens is not None
    guessed = _guess_tokens(deployment, size, memory_bytes) if tokens is None else tokens
    kv_bytes = guessed * size.kv_token_bytes
    rest = memory_bytes - size.weight_bytes - kv_bytes
    shared_rest = reserve_bytes(size, memory_bytes, len(place.gpus), limits.chunk_tokens)
    return Budget(
        name=size.name,
        gpus=tuple(_name_gpu(gpu, gpus[gpu]) for gpu in place.gpus),
        num_sharing=place.num_workers,
        device_bytes=memory_bytes,
        weight_bytes=size.weight_bytes,
        kv_bytes=kv_bytes,
        kv_tokens=guessed,
        is_measured_at_start=tokens is None,
        other_bytes=shared_rest if is_shared else rest,
    )


def _guess_tokens(deployment: ResolvedDeployment, size: WorkerMemory, memory_bytes: int) -> int:
    limits = size.limits
    if limits.mem_fraction is not None:
        static = int(memory_bytes * limits.mem_fraction)
    else:
        static = sglang_static_bytes(memory_bytes, size.gpus_each, limits.chunk_tokens)
    free = max(0, static - GIB // 2 - size.weight_bytes)
    return free // size.kv_token_bytes // deployment.page_size * deployment.page_size


def _name_gpu(index: int, gpu: Gpu) -> str:
    return str(index) if gpu.label in (None, str(index)) else f"{index} ({gpu.label})"
