"""The workers behind the router: what they are, how they are, and the pool that they join and leave."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from yarl import URL

from prefillshare.config.router import Router
from prefillshare.config.tables import build
from prefillshare.errors import ConfigError
from prefillshare.routing.workers.breaker import Breaker
from prefillshare.routing.workers.speed import PrefillSpeed

Role = Literal["prefill", "decode"]
State = Literal["starting", "up", "down", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker as the launcher or an operator describes it."""

    id: str
    """Name of the worker, unique in the deployment."""
    role: Role
    """What the worker does."""
    module: str | None = None
    """Decode module that a decode worker holds; None for a prefill worker."""
    url: str
    """Address of its HTTP server."""
    bootstrap_host: str | None = None
    """Prefill worker: host of its bootstrap server, as decode workers reach it."""
    bootstrap_port: int | None = None
    """Prefill worker: port of its bootstrap server."""
    kv_events: str | None = None
    """ZeroMQ address at which the worker publishes what its cache stores and evicts; None when it does not."""

    def __post_init__(self) -> None:
        if (self.role == "decode") != (self.module is not None):
            wanted = "has no module: name its decode module" if self.role == "decode" else "has a module: remove it"
            raise ConfigError(f"{self.role} worker {self.id!r} {wanted}")
        if self.role == "prefill" and (self.bootstrap_host is None or self.bootstrap_port is None):
            raise ConfigError(f"prefill worker {self.id!r} lacks bootstrap_host or bootstrap_port: give both")
        if self.bootstrap_port is not None and not 0 < self.bootstrap_port < 65536:
            raise ConfigError(f"bootstrap_port is {self.bootstrap_port}: it must be between 1 and 65535")
        if self.kv_events is not None and not self.kv_events.startswith(("tcp://", "ipc://")):
            raise ConfigError(
                f"kv_events {self.kv_events!r} is not a ZeroMQ address: use one such as tcp://127.0.0.1:5557"
            )
        if not _is_server_address(self.url):
            raise ConfigError(
                f"url {self.url!r} is not the address of a server: use one such as http://127.0.0.1:41234"
            )


def _is_server_address(text: str) -> bool:
    try:
        url = URL(text)
        return url.scheme in ("http", "https") and bool(url.host) and url.path in ("", "/") and not url.query_string
    except ValueError:
        return False


def worker_spec(table: Any) -> WorkerSpec:
    """Return the worker that a JSON object describes; keys with null count as absent.

    Raises: ConfigError.
    """
    if not isinstance(table, Mapping):
        raise ConfigError("a worker must be a JSON object with id, role, module and url")
    return build(WorkerSpec, {key: value for key, value in table.items() if value is not None}, "worker")


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
        """Count one more running call."""
        self.num_running += 1
        self.num_calls += 1
        self.breaker.call_sent()

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


class WorkerPool:
    """The workers by id, in the order in which they joined."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker_id: str) -> Worker | None:
        """Return the worker of that id."""
        return self._workers.get(worker_id)

    def add(self, worker: Worker) -> None:
        """Let a worker join; its id must be new."""
        assert worker.id not in self._workers
        self._workers[worker.id] = worker

    def remove(self, worker: Worker) -> None:
        """Let a worker leave."""
        del self._workers[worker.id]

    def prefill(self) -> list[Worker]:
        """Return the prefill workers."""
        return [worker for worker in self if worker.spec.role == "prefill"]

    def replicas(self, module: str) -> list[Worker]:
        """Return the decode workers that hold `module`."""
        return [worker for worker in self if worker.spec.module == module]

    def warning(self, module: str) -> str | None:
        """Return what its workers say against the answers of `module`; None when they say nothing."""
        told = (worker.card.get("warning") for worker in self.replicas(module))
        return next((text for text in told if isinstance(text, str)), None)

    def modules(self) -> list[str]:
        """Return the decode modules that some worker holds, each once."""
        return list(dict.fromkeys(worker.spec.module for worker in self if worker.spec.module is not None))
