"""Which of SGLang's kernels exist for a deployment on a GPU; what cannot start is refused before it is tried.

SGLang 0.5.17 compiles RMSNorm, query/key norm, rotation and SwiGLU for 16-bit types only. The plugin `gpu_float32`,
which measurements bring along, puts PyTorch's operators in their place.
"""

import itertools
from collections.abc import Sequence

from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.plan.known_options import known_options

GPU_ATTENTION_BACKEND = "triton"
GPU_LORA_BACKEND = "csgmv"
_CPU_ATTENTION_BACKENDS = ("torch_native", "flex_attention", "intel_amx")
_FLOAT32_PLUGIN = "gpu_float32"
_CHUNK_FLAG = "--max-lora-chunk-size"
_FLOAT32_MAX_LORA_CHUNK = 64
"""A chunk of 128 tokens takes 432 KiB of shared memory in float32; the largest GPUs have 227 KiB."""


def check_kernels(deployment: ResolvedDeployment, plugins: str, extra_args: Sequence[str] = ()) -> None:
    """Refuse what has no kernel on the deployment's GPUs or CPU; `plugins` are those that the engine loads.

    Raises: ConfigError.
    """
    if not deployment.gpus:
        _check_cpu(deployment)
    elif deployment.dtype == "float32":
        _check_float32(deployment, plugins, extra_args)


def _check_cpu(deployment: ResolvedDeployment) -> None:
    backend = deployment.config.engine.attention_backend
    known = known_options()["--attention-backend"].choices
    if backend in known and backend not in _CPU_ATTENTION_BACKENDS:
        raise ConfigError(
            f"attention_backend is {backend!r}, which needs a GPU, and this deployment would run on the CPU: remove "
            "attention_backend under [engine], or see with --dry-run --assume-gpus 1x80GB what a GPU would run"
        )


def _check_float32(deployment: ResolvedDeployment, plugins: str, extra_args: Sequence[str]) -> None:
    if _FLOAT32_PLUGIN not in plugins.split(","):
        raise ConfigError(
            'dtype is "float32" and SGLang has no float32 kernel for RMSNorm and query/key norm on a GPU: remove dtype '
            'under [engine] for the checkpoint\'s own, or set device = "cpu" there to compute exactly'
        )
    backend = deployment.config.engine.lora_backend or GPU_LORA_BACKEND
    chunk = _find_last_value([*deployment.config.engine.extra_args, *extra_args], _CHUNK_FLAG)
    if backend == GPU_LORA_BACKEND and chunk and chunk.isdecimal() and int(chunk) > _FLOAT32_MAX_LORA_CHUNK:
        raise ConfigError(
            f"{_CHUNK_FLAG} is {chunk} and {GPU_LORA_BACKEND} in float32 has no room for it in a GPU's shared memory: "
            f'set it to {_FLOAT32_MAX_LORA_CHUNK} or less, or lora_backend = "triton" under [engine]'
        )


def _find_last_value(words: Sequence[str], flag: str) -> str | None:
    """The last value of a flag, as `--flag value` or `--flag=value`."""
    found = None
    for word, following in itertools.pairwise([*words, ""]):
        if word == flag:
            found = following
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found
