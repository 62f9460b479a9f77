"""Which way KV goes from prefill to decode workers, as it is told before they start."""

from prefillshare.modules.deployment import ResolvedDeployment


def describe_transfer(deployment: ResolvedDeployment) -> str:
    """Say it in one line; disaggregated only."""
    transfer = deployment.config.transfer
    if transfer.backend != "nixl":
        return f"KV goes to decode workers by {transfer.backend}"
    if deployment.gpus:
        return "KV goes to decode workers by nixl, from GPU to GPU"
    if not transfer.shared_memory:
        return "KV goes to decode workers by nixl: shared_memory = false under [transfer]"
    return "KV goes to decode workers through shared memory"
