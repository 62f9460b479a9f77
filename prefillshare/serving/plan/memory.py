"""How much memory a worker takes: weights, KV cache, and what computing needs beside them.

Weights and KV are known to the byte. What computing needs is an estimate after SGLang's own
(`ServerArgs._handle_gpu_memory_settings` at 0.5.17), since it depends on kernels and CUDA graphs.
"""

from dataclasses import dataclass
from pathlib import Path

from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.modules.fingerprint import geometry, read_model_config, tensor_entries, weight_files
from prefillshare.modules.precision import Dtype, served_bytes, value_bytes
from prefillshare.serving.plan.workers import Worker, narrow

GIB = 1 << 30
_MIB = 1 << 20
# GPU memory below which SGLang chooses: tokens of a chunk, answers in a CUDA graph with tp below 4, and from 4 on.
_TIERS = (
    (20 * GIB, 2048, 8, 8),
    (35 * GIB, 2048, 24, 80),
    (60 * GIB, 4096, 32, 160),
    (160 * GIB, 8192, 256, 512),
    (1 << 62, 16384, 512, 512),
)
_CONTEXT_BYTES = GIB
"""CUDA context, workspaces of libraries and what the allocator cannot use."""
_PREFILL_GRAPH_BYTES = GIB // 2
_GRAPH_BYTES_PER_ANSWER = 2 * _MIB
_LARGE_GPU_BYTES = 60 * GIB
_LARGE_GPU_RESERVE_BYTES = 10 * GIB
_SGLANG_BYTES_PER_TOKEN = 3 * _MIB // 2
"""What SGLang keeps free for each token of a chunk; a model of 70 billion parameters needs it."""

_CHANGE_SIZES = frozenset({"--quantization", "--kv-cache-dtype", "--cpu-offload-gb", "--load-format"})
"""Arguments with which weights or KV take another size than the checkpoint's type gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the deployment file says about memory."""

    page_size: int
    """Tokens per page."""
    max_total_tokens: int | None
    """Tokens of each worker's KV cache."""
    mem_fraction: float | None
    """Share of a GPU's memory for one worker's weights and KV cache."""
    chunk_tokens: int | None
    """Most prompt tokens of a step; None is SGLang's choice."""
    is_exact: bool = True
    """Whether weights and KV are as large as the checkpoint says; else SGLang alone can tell what fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMemory:
    """What one worker takes of each of its GPUs; of the host's memory on a CPU."""

    name: str
    """Its name, for messages."""
    weight_bytes: int
    """Weights and slots for adapters."""
    kv_token_bytes: int
    """KV of one token."""
    token_bytes: int
    """What computing takes for one token of a chunk."""
    gpus_each: int
    """GPUs that it takes."""
    limits: Limits
    """What the deployment file says about its memory."""


def worker_memory(deployment: ResolvedDeployment, worker: Worker) -> WorkerMemory:
    """Return what a worker takes."""
    deployment = narrow(deployment, worker)
    tp, dtype, path = deployment.config.engine.tensor_parallel_size, deployment.dtype, worker.checkpoint
    adapters = [module.adapter for module in worker.adapters if module.adapter is not None]
    sizes = geometry(path)
    heads = max(1, sizes["num_kv_heads"] // tp)  # with fewer heads than GPUs, each GPU holds one
    config = read_model_config(path)
    widths = int(sizes["hidden_size"]) + 3 * int(config.get("intermediate_size") or 4 * sizes["hidden_size"])
    # One slot more than adapters, each as large as the largest: the prefill module's.
    slots = (len(adapters) + 1) * max((_file_bytes(adapter.path, dtype) for adapter in adapters), default=0)
    return WorkerMemory(
        name=worker.name,
        weight_bytes=(_file_bytes(path, dtype) + slots) // tp,
        kv_token_bytes=2 * sizes["num_layers"] * heads * sizes["head_dim"] * value_bytes(dtype),
        token_bytes=min(_SGLANG_BYTES_PER_TOKEN, 8 * value_bytes(dtype) * widths // tp),
        gpus_each=tp,
        limits=_limits_of(deployment),
    )


def _limits_of(deployment: ResolvedDeployment) -> Limits:
    """Return what the deployment's file says about memory."""
    engine = deployment.config.engine
    return Limits(
        page_size=deployment.page_size,
        max_total_tokens=engine.max_total_tokens,
        mem_fraction=engine.mem_fraction_static,
        chunk_tokens=engine.chunked_prefill_size,
        is_exact=not any(argument.partition("=")[0] in _CHANGE_SIZES for argument in engine.extra_args),
    )


def kv_token_bytes(deployment: ResolvedDeployment) -> int:
    """Return the bytes of one token's KV, over all GPUs of a worker."""
    sizes = geometry(deployment.prefill_path)
    return int(2 * sizes["num_layers"] * sizes["num_kv_heads"] * sizes["head_dim"] * value_bytes(deployment.dtype))


def reserve_bytes(worker: WorkerMemory, gpu_bytes: int, gpus_each: int, chunk_tokens: int | None) -> int:
    """Return what a worker takes beside weights and KV where it shares a GPU."""
    chunk, graph = _sglang_choices(gpu_bytes, gpus_each)
    computing = max(chunk_tokens or chunk, 2048) * worker.token_bytes
    graphs = graph * _GRAPH_BYTES_PER_ANSWER + _PREFILL_GRAPH_BYTES
    return _CONTEXT_BYTES + computing + graphs + (gpus_each * GIB // 8 if gpus_each > 1 else 0)


def sglang_static_bytes(gpu_bytes: int, gpus_each: int, chunk_tokens: int | None) -> int:
    """Return about what SGLang gives to weights and KV when it may choose."""
    chunk, graph = _sglang_choices(gpu_bytes, gpus_each)
    reserve = 512 * _MIB + max(chunk_tokens or chunk, 2048) * _SGLANG_BYTES_PER_TOKEN + gpus_each * GIB // 8
    reserve += graph * _GRAPH_BYTES_PER_ANSWER + _PREFILL_GRAPH_BYTES
    if gpu_bytes > _LARGE_GPU_BYTES:
        reserve = max(reserve, _LARGE_GPU_RESERVE_BYTES)
    return max(0, gpu_bytes - reserve)


def gib(num_bytes: int) -> str:
    """Return a size for people, in GiB."""
    return f"{num_bytes / GIB:.1f}" if num_bytes >= GIB // 10 else f"{num_bytes / GIB:.2g}"


def _sglang_choices(gpu_bytes: int, gpus_each: int) -> tuple[int, int]:
    chunk, few, many = next(choice for limit, *choice in _TIERS if gpu_bytes < limit)
    return chunk, few if gpus_each < 4 else many


def _file_bytes(path: Path, dtype: Dtype) -> int:
    return sum(served_bytes(entry, dtype) for entry in tensor_entries(weight_files(path)))
