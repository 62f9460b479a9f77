"""Where one worker listens, and on which GPUs it runs."""

from dataclasses import dataclass

from prefillshare.serving.options import DEFAULT_HOST
from prefillshare.serving.plan.placement import GpuPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker listens, and on which GPUs it runs."""

    host: str
    """Address of its HTTP server."""
    port: int
    """Port of its HTTP server."""
    nccl_port: int
    """Port of torch's rendezvous."""
    bootstrap_port: int | None = None
    """Port at which decode workers find a prefill worker; None for others."""
    gpu: GpuPlace | None = None
    """Its GPUs; None on a CPU, and for a colocated engine, which takes the first."""
    kv_events: str | None = None
    """ZeroMQ address at which it publishes KV events; None when it does not. A `*` stands for `peer_host`."""
    peer_host: str = DEFAULT_HOST
    """Address of this machine at which other workers and routers reach it beside its HTTP server."""

    @property
    def kv_events_address(self) -> str | None:
        """ZeroMQ address at which routers hear its KV events."""
        return None if self.kv_events is None else self.kv_events.replace("*", self.peer_host)

    @property
    def held_ports(self) -> tuple[int, ...]:
        """Ports that were chosen for it, beside that of its HTTP server."""
        events = (self.kv_events or "").rpartition(":")[2]
        found = (self.nccl_port, self.bootstrap_port, int(events) if events.isdigit() else None)
        return tuple(port for port in found if port is not None)

    @property
    def url(self) -> str:
        """Address of its HTTP server."""
        return f"http://{self.host}:{self.port}"
