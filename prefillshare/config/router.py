"""The `[router]` table of a deployment file: how calls are spread over prefill and decode workers."""

from dataclasses import dataclass
from typing import Literal

from prefillshare.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """Settings of the router; times are in seconds, sizes in bytes unless the name says otherwise."""

    policy: Literal["prefix_aware", "session", "round_robin", "least_loaded"] = "prefix_aware"
    """How the prefill worker of a call is chosen."""
    max_running_per_worker: int = 256
    """Calls that one worker has at a time; further ones wait in the router's queue."""
    max_queued_per_module: int = 256
    """Calls that may wait for one decode module; further ones are answered 429."""
    queue_timeout_s: float = 60.0
    """Longest wait in the router's queue, then 503."""
    start_hold_s: float = 10.0
    """Calls that come so soon after the router's start wait for workers that it has not heard of; 0 refuses them."""
    max_body_bytes: int = 32 * 1024 * 1024
    """Largest request body; larger ones are answered 413. Workers take no more than the default."""
    body_timeout_s: float = 120.0
    """Longest time for a request's body to arrive, then 408."""
    client_idle_timeout_s: float = 60.0
    """A client's connection closes after so long without a request; the head of a request, too, must come within it."""
    connect_timeout_s: float = 2.0
    """Longest wait for a connection to a worker."""
    first_byte_timeout_s: float = 300.0
    """Longest wait for the first byte of a streamed answer, prefill included."""
    idle_timeout_s: float = 120.0
    """Longest pause between two pieces of a streamed answer."""
    total_timeout_s: float = 1800.0
    """Longest time for a whole call."""
    max_retries: int = 2
    """Times that a call which has not streamed anything is tried again after a worker failed."""
    health_interval_s: float = 5.0
    """Pause between two health checks of a worker."""
    health_timeout_s: float = 10.0
    """Longest wait for the answer to a health check."""
    health_failures: int = 2
    """Failed health checks in a row after which a worker counts as down."""
    breaker_failures: int = 3
    """Failed calls in a row after which a worker gets no calls for a while."""
    breaker_open_s: float = 5.0
    """First pause of a worker whose calls fail; doubled while it keeps failing."""
    breaker_max_open_s: float = 60.0
    """Longest pause of a worker whose calls fail."""
    drain_timeout_s: float = 30.0
    """Longest wait for running calls when a worker leaves or the router stops."""
    max_sessions: int = 100_000
    """Sessions whose prefill worker is remembered; the longest unused one is forgotten first."""
    prefix_index_bytes: int = 64 * 1024 * 1024
    """Memory for the index of which worker holds which prefix; the longest unused prefixes are forgotten first."""
    kv_events: bool = False
    """Let workers tell the router what their caches evict (SGLang's KV events); costs them a hash per page of KV."""
    repin_margin_s: float = 0.05
    """Time that prefilling elsewhere must save before a session leaves its prefill worker."""
    initial_prefill_tokens_per_s: float = 2000.0
    """Assumed prefill speed of a worker until its own calls have shown it."""
    decode_load_slack: int = 2
    """Calls more than the least loaded replica that the replica holding a longer prefix may have; 1 + sqrt(n)/2
    times as many where half of the replicas have n."""

    def __post_init__(self) -> None:
        for name, minimum in _AT_LEAST.items():
            if (value := getattr(self, name)) < minimum:
                raise ConfigError(f"{name} is {value}: it must be at least {minimum}")
        for name in _ABOVE_ZERO:
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ConfigError(f"{name} is {value}: it must be more than 0, and finite")
        if self.breaker_max_open_s < self.breaker_open_s:
            raise ConfigError(
                f"breaker_max_open_s is {self.breaker_max_open_s}, less than breaker_open_s {self.breaker_open_s}: "
                "raise breaker_max_open_s"
            )


_AT_LEAST = {
    "max_running_per_worker": 1,
    "max_queued_per_module": 0,
    "max_body_bytes": 1024,
    "max_retries": 0,
    "health_failures": 1,
    "breaker_failures": 1,
    "max_sessions": 1,
    "prefix_index_bytes": 0,
    "decode_load_slack": 0,
    "repin_margin_s": 0,
    "start_hold_s": 0,
}

_ABOVE_ZERO = (
    "queue_timeout_s",
    "body_timeout_s",
    "client_idle_timeout_s",
    "connect_timeout_s",
    "first_byte_timeout_s",
    "idle_timeout_s",
    "total_timeout_s",
    "health_interval_s",
    "health_timeout_s",
    "breaker_open_s",
    "breaker_max_open_s",
    "drain_timeout_s",
    "initial_prefill_tokens_per_s",
)
