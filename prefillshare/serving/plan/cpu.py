"""What a deployment gets where no GPU is and its file says nothing. `config.schema` tells users of these numbers."""

from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.serving.machine.host import available_memory_bytes
from prefillshare.serving.plan.memory import kv_token_bytes

MAX_RUNNING_REQUESTS = 32
CHUNKED_PREFILL_TOKENS = 512
MAX_KV_BYTES = 2 << 30
MAX_KV_TOKENS = 65536
MIN_KV_TOKENS = 2048


def runs_on_cpu(deployment: ResolvedDeployment) -> bool:
    """Whether the deployment's engines run without an accelerator.

    Raises: ConfigError when it asks for GPUs that this machine does not have.
    """
    device, found = deployment.config.engine.device, len(deployment.gpus)
    wanted = deployment.config.engine.tensor_parallel_size
    if device == "cuda" and not found:
        raise ConfigError('device is "cuda" and this machine shows no CUDA GPU: set device = "auto" under [engine]')
    on_cpu = not found
    if wanted > max(1, found) or (on_cpu and wanted > 1):
        raise ConfigError(
            f"tensor_parallel_size is {wanted} and {0 if on_cpu else found} GPUs can be used: "
            f"set tensor_parallel_size = {1 if on_cpu else found} under [engine]"
        )
    return on_cpu


def cpu_flags(deployment: ResolvedDeployment) -> dict[str, object]:
    """Return the flags of an engine on a CPU with their values; what the file says wins."""
    return {
        "--attention-backend": "torch_native",
        "--sampling-backend": "pytorch",
        "--max-running-requests": MAX_RUNNING_REQUESTS,
        # SGLang wants whole pages.
        "--chunked-prefill-size": max(1, CHUNKED_PREFILL_TOKENS // deployment.page_size) * deployment.page_size,
        "--max-total-tokens": cpu_kv_tokens(deployment),
    }


def cpu_kv_tokens(deployment: ResolvedDeployment) -> int:
    """Return the tokens of KV that fit a quarter of the free memory, in whole pages."""
    budget = min(MAX_KV_BYTES, (available_memory_bytes() or 4 * MAX_KV_BYTES) // 4)
    tokens = min(MAX_KV_TOKENS, max(MIN_KV_TOKENS, budget // kv_token_bytes(deployment)))
    return max(1, tokens // deployment.page_size) * deployment.page_size
