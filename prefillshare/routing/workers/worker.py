"""One worker and what the router knows of it: its state, its load, its speed, its failures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from prefillshare.config.router import Router
from prefillshare.observe.document import WorkerPhase
from prefillshare.routing.workers.breaker import Breaker
from prefillshare.routing.workers.breaker import State as BreakerState
from prefillshare.routing.workers.recent_work import RecentWork
from prefillshare.routing.workers.spec import Role, WorkerSpec
from prefillshare.routing.workers.speed import PrefillSpeed

State = WorkerPhase


class WorkerSummary(TypedDict):
    """What `/workers` tells of one worker."""

    id: str
    role: Role
    module: str | None
    url: str
    state: State
    reason: str
    breaker: BreakerState
    running: int
    max_running: int
    calls: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a worker says at `/v1/models` of the model that it serves."""

    is_adapter: bool = False
    """Whether it is an adapter on the prefill module."""
    max_model_len: int | None = None
    """Longest context, in tokens."""
    warning: str | None = None
    """What the worker says against the answers of its module."""


class Worker:
    """One worker and what the router knows of it."""

    def __init__(self, spec: WorkerSpec, settings: Router, clock: Callable[[], float] = time.monotonic) -> None:
        self.spec = spec
        self.id = spec.id
        self.base_url = spec.url.rstrip("/")
        self.headers = {} if spec.api_key is None else {"Authorization": f"Bearer {spec.api_key}"}
        self.state: State = "starting"
        self.reason = "not asked yet"
        self.card = ModelCard()
        self.on_changed: Callable[[Worker], None] | None = None
        """Hears, if it is set, that this worker may be more or less fit for a call than it was."""
        self._num_running = 0
        self._num_elsewhere = 0
        self._num_working_elsewhere = 0
        self.num_calls = 0
        self.num_failed = 0
        self.num_ups = 0
        self.num_decoding = 0
        """Of this router's calls, those whose prompt is prefilled."""
        self.prompts_due: dict[object, float] = {}
        """Its prompts on their way, and by when the prefill worker had time enough for each (open_prompts.py)."""
        self.joined_at = clock()
        self.last_byte_at = 0.0
        self.max_running = settings.max_running_per_worker
        self.speed = PrefillSpeed(settings.initial_prefill_tokens_per_s, clock, on_changed=self._tell_change)
        self.work = RecentWork().join()
        """What it was given lately; the group that it joins has it beside those of others."""
        self.breaker = Breaker(
            failures=settings.breaker_failures,
            open_s=settings.breaker_open_s,
            max_open_s=settings.breaker_max_open_s,
            clock=clock,
            on_changed=self._tell_change,
        )

    @property
    def num_running(self) -> int:
        """Calls that it has of this router's."""
        return self._num_running

    @num_running.setter
    def num_running(self, number: int) -> None:
        self._num_running = number
        self._tell_change()

    @property
    def load(self) -> int:
        """Calls that it has, those of other routers included."""
        return self._num_running + self._num_elsewhere

    def num_working(self, now: float) -> int:
        """Calls that it works on, those of other routers included."""
        return self.num_working_here(now) + self._num_working_elsewhere

    def num_working_here(self, now: float) -> int:
        """Of this router's calls those that nobody else holds up: a prefill worker's whose prompts it may still
        compute, a decode worker's that decode, or wait there for room."""
        num_due = sum(due_at <= now for due_at in self.prompts_due.values())
        if self.spec.role == "decode":
            return self.num_decoding + num_due
        return len(self.prompts_due) - num_due if self.speed.backlog_s else 0

    def backlog_s(self) -> float:
        """Estimated time for which a prefill worker has to compute, for calls of other routers, too."""
        elsewhere = self.speed.tokens_elsewhere if self._num_working_elsewhere else 0.0
        return self.speed.backlog_s + elsewhere / self.speed.tokens_per_s

    def room_wait_s(self, now: float) -> float:
        """How long the first of its calls has waited in a decode worker for room, whose prompt is prefilled by now."""
        return max(0.0, now - min(self.prompts_due.values(), default=now))

    def note_elsewhere(self, num_calls: int, pending_tokens: float, num_working: int) -> None:
        """Hear how many calls other routers have there, how many tokens it has to compute for these, and on how many of
        them it works."""
        self._num_elsewhere = num_calls
        self._num_working_elsewhere = num_working
        self.speed.tokens_elsewhere = pending_tokens
        self._tell_change()

    @property
    def is_adapter(self) -> bool:
        """Whether its module is an adapter, which `/generate` names by `lora_path`."""
        return self.spec.role != "prefill" and self.card.is_adapter

    @property
    def is_available(self) -> bool:
        """Whether calls may be sent to it, now or as soon as it has room."""
        return self.state == "up" and self.breaker.can_pass

    @property
    def has_room(self) -> bool:
        """Whether it may take one more call."""
        return self.load < self.max_running

    def reserve(self) -> None:
        """Take a place for one more call; whoever ends the leg gives it back, by `Admission.release`."""
        self.num_running += 1
        self.num_calls += 1
        self.breaker.begin_call()

    def set_state(self, state: State, reason: str = "") -> None:
        """Change the state; `reason` tells people why."""
        # Each time it may be another process: what was learned of the one before need not hold.
        self.num_ups += state == "up"
        self.state = state
        self.reason = reason
        self._tell_change()

    def summary(self) -> WorkerSummary:
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

    def _tell_change(self) -> None:
        if self.on_changed is not None:
            self.on_changed(self)
