"""One worker and what the router knows of it: its state, its load, its speed, its failures."""

from typing import Any, Literal

from prefillshare.config.router import Router
from prefillshare.routing.workers.breaker import Breaker
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.speed import PrefillSpeed

State = Literal["starting", "up", "down", "draining"]


class Worker:
    """One worker and what the router knows of it."""

    def __init__(self, spec: WorkerSpec, settings: Router) -> None:
        self.spec = spec
        self.base_url = spec.url.rstrip("/")
        self.state: State = "starting"
        self.reason = "not asked yet"
        self.is_adapter = False
        self.card: dict[str, Any] = {}
        self.num_running = 0
        self.num_calls = 0
        self.num_failed = 0
        self.last_byte_at = 0.0
        self.max_running = settings.max_running_per_worker
        self.speed = PrefillSpeed(settings.initial_prefill_tokens_per_s)
        self.breaker = Breaker(
            failures=settings.breaker_failures,
            open_s=settings.breaker_open_s,
            max_open_s=settings.breaker_max_open_s,
        )

    @property
    def id(self) -> str:
        """Name of the worker."""
        return self.spec.id

    @property
    def is_available(self) -> bool:
        """Whether calls may be sent to it, now or as soon as it has room."""
        return self.state == "up" and self.breaker.can_pass

    @property
    def has_room(self) -> bool:
        """Whether it may take one more call."""
        return self.num_running < self.max_running

    def reserve(self) -> None:
        """Take a place for one more call; whoever ends the leg gives it back, by `Admission.release`."""
        self.num_running += 1
        self.num_calls += 1
        self.breaker.begin_call()

    def set_state(self, state: State, reason: str = "") -> None:
        """Change the state; `reason` tells people why."""
        self.state = state
        self.reason = reason

    def summary(self) -> dict[str, Any]:
        """Return what `/workers` tells."""
        return {
            "id": self.id,
            "role": self.spec.role,
            "module": self.spec.module,
            "url": self.spec.url,
            "state": self.state,
            "reason": self.reason,
            "breaker": self.breaker.state,
            "running": self.num_running,
            "max_running": self.max_running,
            "calls": self.num_calls,
            "failed": self.num_failed,
        }
