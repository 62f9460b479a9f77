"""Sizes with which an engine would not start, or would start and serve nothing: found before anything is started."""

import importlib.util

from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.modules.fingerprint import geometry
from prefillshare.serving.machine.host import available_memory_bytes, total_memory_bytes
from prefillshare.serving.plan.budget import Budget
from prefillshare.serving.plan.memory import gib
from prefillshare.serving.plan.store import host_memory_bytes
from prefillshare.serving.plan.workers import workers_of

MIN_POOL_TOKENS = 64
"""A short question in its chat template with a short answer."""
RESERVED_DECODE_TOKENS = 512
"""A decode worker takes a prompt only when so many tokens are free beside it (num_reserved_decode_tokens of SGLang)."""
_PACKAGES = {"nixl": "nixl", "mooncake": "mooncake-transfer-engine"}
_MIN_CONTEXT_TOKENS = 16
_MIN_PAGES = 2
_SMALLEST_CHUNK_TOKENS = 2048


def check_transfer(deployment: ResolvedDeployment) -> None:
    """Check that the library that moves the KV is there.

    Raises: ConfigError.
    """
    backend = deployment.config.transfer.backend
    if importlib.util.find_spec(backend) is None:
        raise ConfigError(
            f'backend under [transfer] is "{backend}" and its library is not installed: pip install '
            f"{_PACKAGES[backend]}, or write another backend"
        )


def check_sizes(deployment: ResolvedDeployment, role: str) -> None:
    """Check the sizes of the deployment file against each other, as a worker of `role` has them.

    Raises: ConfigError.
    """
    engine, page = deployment.config.engine, deployment.page_size
    chunk = engine.chunked_prefill_size or (_SMALLEST_CHUNK_TOKENS if deployment.gpus else page)
    if chunk % page:
        whose = (
            f"chunked_prefill_size is {chunk}" if engine.chunked_prefill_size else f"SGLang computes {chunk} at once"
        )
        raise ConfigError(
            f"{whose} and a page has {page} tokens: set chunked_prefill_size = {max(1, chunk // page) * page} under "
            "[engine], a multiple of page_size"
        )
    if engine.context_length is not None and engine.context_length < _MIN_CONTEXT_TOKENS:
        raise ConfigError(
            f"context_length is {engine.context_length}, too short for a question and an answer: set context_length = "
            f"{deployment.max_positions or MIN_POOL_TOKENS} or less under [engine], or remove it"
        )
    _check_tensor_parallel(deployment)
    if engine.max_total_tokens is not None:
        _check_pool(deployment, engine.max_total_tokens, RESERVED_DECODE_TOKENS if role == "decode" else 0)


def _check_tensor_parallel(deployment: ResolvedDeployment) -> None:
    """SGLang gives each GPU as many heads as another; KV heads may be fewer than GPUs and are copied then."""
    wanted, sizes = deployment.config.engine.tensor_parallel_size, geometry(deployment.prefill_path)
    heads, kv_heads = int(sizes["num_heads"]), int(sizes["num_kv_heads"])
    fitting = [size for size in range(1, heads + 1) if heads % size == 0 and _is_multiple(kv_heads, size)]
    if wanted not in fitting:
        raise ConfigError(
            f"tensor_parallel_size is {wanted} and prefill module {deployment.config.prefill.name!r} has {heads} heads "
            f"and {kv_heads} KV heads, which do not divide so: set one of {', '.join(map(str, fitting[:8]))} under "
            "[engine]"
        )


def _is_multiple(heads: int, size: int) -> bool:
    """Whether one of the two is a multiple of the other."""
    return max(heads, size) % min(heads, size) == 0


def _check_pool(deployment: ResolvedDeployment, tokens: int, reserved: int) -> None:
    page = deployment.page_size
    least = reserved + max(MIN_POOL_TOKENS, _MIN_PAGES * page)
    least = -(-least // page) * page
    if tokens // page * page >= least:
        return
    why = f", of which a decode worker keeps {reserved} free for answers" if reserved else ""
    raise ConfigError(
        f"max_total_tokens is {tokens} in pages of {page}{why}: a KV cache of this size can serve nothing, set "
        f"max_total_tokens = {least} or more under [engine]"
    )


def size_warnings(deployment: ResolvedDeployment, planned: list[Budget]) -> list[str]:
    """Return what the user should know about sizes although the deployment can be served.

    Raises: ConfigError for what this machine can never hold.
    """
    warnings = _context_warnings(deployment, planned)
    available, total = available_memory_bytes(), total_memory_bytes()
    tiers = host_memory_bytes(deployment, {budget.name: budget.kv_tokens for budget in planned})
    if total is not None and tiers > total:
        raise ConfigError(
            f"host tiers and store take up to {gib(tiers)} GiB and this machine has {gib(total)} GiB of memory: set a "
            "smaller memory or host_ratio under [store]"
        )
    if tiers and available is not None and tiers > available:
        warnings.append(
            f"host tiers and store take up to {gib(tiers)} GiB and {gib(available)} GiB of memory are free: set a "
            "smaller memory or host_ratio under [store]"
        )
    needed = sum(budget.weight_bytes + budget.kv_bytes for budget in planned)
    if not deployment.gpus and available is not None and needed > available:
        warnings.append(
            f"weights and KV of {len(planned)} processes take {gib(needed)} GiB and {gib(available)} GiB of memory are "
            "free: set a smaller max_total_tokens under [engine], or end other programs"
        )
    return warnings


def _context_warnings(deployment: ResolvedDeployment, planned: list[Budget]) -> list[str]:
    """An engine refuses a call that its cache cannot hold, and a prefill worker too; a decode worker lets it wait."""
    is_colocated = deployment.config.topology == "colocated"
    stated = deployment.config.engine.context_length
    context = stated if is_colocated else stated or deployment.max_positions
    decode = {worker.name for worker in workers_of(deployment) if worker.role == "decode"}
    longest, name = min(
        (budget.kv_tokens - (RESERVED_DECODE_TOKENS if budget.name in decode else 0), budget.name) for budget in planned
    )
    if context is None or longest >= context:
        return []
    outcome = "longer calls are refused"
    if name in decode:
        outcome = f"{RESERVED_DECODE_TOKENS} of them kept for answers: longer calls wait for KV until they fail"
    held = next(budget.kv_tokens for budget in planned if budget.name == name)
    return [
        f"the longest call may have {context} tokens and the KV cache of {name} holds {held}, {outcome}, so set "
        f"context_length = {longest} under [engine], or give the cache more memory"
    ]
