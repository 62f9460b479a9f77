"""The counters and latencies of one decode module, or of the prefill module where it is asked itself."""

from dataclasses import dataclass, field
from typing import cast

from prefillshare.observe.document import LATENCIES, Latencies, ModuleCounters, WorkerCounters, part_of
from prefillshare.observe.histogram import E2E_S, ITL_S, QUEUE_S, RATIO, TTFT_S, Histogram


@dataclass(slots=True, kw_only=True)
class ModuleStats:
    """Numbers since the process started; times in seconds."""

    requests: int = 0
    """Requests that ended; each prompt of a batch is one."""
    errors: int = 0
    """Of these, ones that failed."""
    refused: int = 0
    """Of these, ones that the caller has to change or to repeat later (4xx)."""
    aborted: int = 0
    """Of these, ones that the client left or had aborted."""
    prompt_tokens: int = 0
    """Prompt tokens of requests whose prefill is done."""
    own_hit_tokens: int = 0
    """Of these, cached ones that this module's own requests had prefilled."""
    cross_hit_tokens: int = 0
    """Of these, cached ones that another module's requests had prefilled."""
    avoidable_tokens: int = 0
    """Of these, ones that it computed itself (`share = false`) although the prefill module's KV of them was cached."""
    generated_tokens: int = 0
    """Tokens of answers so far."""
    retractions: int = 0
    """Times that a running request lost its KV for want of memory."""
    num_running: int = 0
    """Requests that have begun and not ended."""
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_S))
    """From a request's arrival to its first token."""
    itl: Histogram = field(default_factory=lambda: Histogram(ITL_S))
    """From one token to the next."""
    e2e: Histogram = field(default_factory=lambda: Histogram(E2E_S))
    """From a request's arrival to its end, good ones only."""
    queue: Histogram = field(default_factory=lambda: Histogram(QUEUE_S))
    """Waiting before the prefill began; at the router, before a worker was free."""
    shared_prefix: Histogram = field(default_factory=lambda: Histogram(RATIO))
    """Share of the prompt up to which it equals a prompt of another module in the session."""

    def counters(self) -> ModuleCounters:
        """Return the counters by name."""
        return part_of(ModuleCounters, self)

    def worker_counters(self) -> WorkerCounters:
        """Return the counters as those of a worker that served nothing else."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.own_hit_tokens + self.cross_hit_tokens,
            "generated_tokens": self.generated_tokens,
            "retractions": self.retractions,
        }

    def latency(self) -> Latencies:
        """Return the latency histograms by name."""
        return cast(Latencies, {name: getattr(self, name).as_dict() for name in LATENCIES})
