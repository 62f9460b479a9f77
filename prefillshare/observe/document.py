"""The document of `GET /deployment/state`, schema 1, as types: every name in it stands here and nowhere else.

Engine and router make it (:mod:`prefillshare.observe.state`), Prometheus' text is read out of it, the router adds up
its workers' documents, and dashboards read it: docs/state-document.md explains it to those who write one. The dashboard
of `tui/` imports nothing of ours and keeps a copy of the names, which a test compares with these.

Counters rise from the start of the process; what nobody knows is None, never 0. A change of a name or a meaning is a
new schema; a further name is not.
"""

from typing import Any, Literal, NotRequired, TypedDict, TypeVar, cast

SCHEMA = 1
STATE_PATH = "/deployment/state"

Topology = Literal["colocated", "disaggregated"]
ModuleKind = Literal["base", "lora", "full"]
Role = Literal["engine", "prefill", "decode", "router"]
WorkerPhase = Literal["starting", "up", "draining", "down"]
EventKind = Literal[
    "restart",
    "refusal",
    "repin",
    "worker_up",
    "worker_down",
    "worker_joined",
    "worker_left",
    "error",
    "flush",
    "move",
    "move_failed",
    "module",
]


class HistogramState(TypedDict):
    """Counts of values up to each bound."""

    le: list[float | None]
    counts: list[int]
    sum: float
    count: int


class Latencies(TypedDict):
    """A module's latency histograms, in seconds."""

    ttft: HistogramState
    itl: HistogramState
    e2e: HistogramState
    queue: HistogramState


class ModuleCounters(TypedDict):
    """What is counted of a module."""

    requests: int
    errors: int
    refused: int
    aborted: int
    prompt_tokens: int
    own_hit_tokens: int
    cross_hit_tokens: int
    avoidable_tokens: int
    generated_tokens: int
    retractions: int


class ModuleState(ModuleCounters):
    """One decode module, or the prefill module where it is asked by its own name."""

    name: str
    kind: ModuleKind
    is_prefill_module: bool
    warning: str | None
    running: int
    queued: int
    latency: Latencies
    shared_prefix: HistogramState


class KvState(TypedDict):
    """KV memory of a worker: capacity = free + shared (in the tree) + private (of requests, beyond the tree)."""

    capacity_tokens: int
    shared_tokens: int
    private_tokens: int
    free_tokens: int
    evictable_tokens: int
    pinned_tokens: int
    token_bytes: int


class HandoffState(TypedDict):
    """KV that a worker handed over or was handed."""

    tokens: int
    bytes: int
    seconds: float | None
    calls: int
    memory_bytes: int | None
    memory_calls: int | None


class StoreCounters(TypedDict):
    """What a worker counted of its host tier and its use of the store."""

    host_hit_tokens: int
    store_hit_tokens: int
    fetched_pages: int
    declined_loads: int
    written_pages: int
    evicted_pages: int
    refused_pages: int
    damaged_pages: int
    failures: int


class StoreState(StoreCounters):
    """A worker's host tier, and the store as it sees it: one for all workers of the deployment."""

    host_capacity_tokens: int
    host_used_tokens: int
    is_attached: bool
    why_off: str | None
    capacity_bytes: int
    used_bytes: int
    used_disk_bytes: int
    num_pages: int
    codec: str
    codec_break_even_bytes_per_s: float
    medium_bytes_per_s: float


class PushState(TypedDict):
    """KV that a decode worker was handed before anybody asked."""

    pushed_tokens: int
    push_hit_tokens: int
    push_wasted_tokens: int
    dropped_pushes: int


class EagerJobsState(TypedDict):
    """Jobs of a router that follow answers."""

    done: int
    dropped: int
    cancelled: int
    failed: int
    pushed: int
    waiting: int


class RoleMovesState(TypedDict):
    """What became of workers that were to change their role."""

    done: int
    failed: int
    would: int


class ComputedAhead(TypedDict):
    """What is counted of what a worker computed before anybody asked: the start of prompts that follow its answers."""

    tokens: int
    hit_tokens: int
    dropped: int
    loaded_tokens: int


class EagerState(ComputedAhead):
    """The same, and what is still to be computed."""

    waiting: int


class AdmissionState(TypedDict):
    """Calls that wait for memory, and had to, and what it is kept for."""

    held_back: int
    overdue: int
    waiting: int
    sessions: int
    held_tokens: int


class WorkerCounters(TypedDict):
    """What is counted of a worker."""

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    retractions: int


class WorkerState(WorkerCounters):
    """One process of the deployment."""

    id: str
    role: Role
    module: str | None
    url: str
    pid: int | None
    state: WorkerPhase
    restarts: int | None
    running: int | None
    queued: int | None
    kv: KvState | None
    handoff: HandoffState | None
    store: StoreState | None
    push: PushState | None
    eager: EagerState | None
    admission: AdmissionState | None


class DivergenceState(TypedDict):
    """Where the prompts of two modules of a session part."""

    token: int
    fraction: float
    modules: list[str]


class SessionState(TypedDict):
    """One session."""

    id: str
    is_explicit: bool
    modules: list[str]
    num_calls: int
    first_seen: float
    last_seen: float
    running: int
    context_tokens: int
    prompt_tokens: int
    own_hit_tokens: int
    cross_hit_tokens: int
    repins: int
    divergence: DivergenceState | None


class SessionsState(TypedDict):
    """The sessions that are remembered."""

    total: int
    items: list[SessionState]


class TenantCounters(TypedDict):
    """What is counted of a tenant."""

    calls: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


class TenantRefusals(TypedDict):
    """Calls of a tenant that were refused, by the reason."""

    rate: int
    tokens: int
    concurrent: int
    module: int
    door: int


class TenantState(TenantCounters):
    """One tenant."""

    name: str
    is_shared: bool
    running: int
    kv_tokens: int | None
    refused: TenantRefusals


class TenantsState(TypedDict):
    """Who may call beside the operator; `problem` says why the tenants' file could not be read again."""

    items: list[TenantState]
    unknown_keys: int
    problem: str | None


class HeldState(TypedDict):
    """KV in the tree of a worker that is one tenant's, whom its router knows."""

    owner: str
    tokens: int


class EventState(TypedDict):
    """Something that happened."""

    id: int
    time: float
    kind: EventKind
    subject: str
    message: str


class ChoiceState(TypedDict):
    """How often a classifier chose a module for an alias."""

    alias: str
    module: str
    calls: int


class ChoicesState(TypedDict):
    """What classifiers chose; `seconds` is what calls waited for it."""

    items: list[ChoiceState]
    seconds: HistogramState


class DeploymentState(TypedDict):
    """The document."""

    schema: int
    time: float
    started: float
    name: str
    topology: Topology
    prefill_module: str
    modules: list[ModuleState]
    workers: list[WorkerState]
    sessions: SessionsState
    events: list[EventState]
    repins: int
    refusals: NotRequired[int]
    retries: NotRequired[int]
    forwarded: NotRequired[int]
    eager_jobs: NotRequired[EagerJobsState]
    role_moves: NotRequired[RoleMovesState]
    tenants: NotRequired[TenantsState]
    choices: NotRequired[ChoicesState]
    held: NotRequired[list[HeldState]]


MODULE_COUNTERS = tuple(ModuleCounters.__annotations__)
HANDOFF_COUNTERS = tuple(HandoffState.__annotations__)
PUSH_COUNTERS = tuple(PushState.__annotations__)
EAGER_COUNTERS = tuple(ComputedAhead.__annotations__)
EAGER_OUTCOMES = ("done", "dropped", "cancelled", "failed")
MOVE_OUTCOMES = tuple(RoleMovesState.__annotations__)
LATENCIES = tuple(Latencies.__annotations__)
WORKER_COUNTERS = tuple(WorkerCounters.__annotations__)
TENANT_COUNTERS = tuple(TenantCounters.__annotations__)
REFUSAL_REASONS: tuple[Literal["rate", "tokens", "concurrent", "module", "door"], ...] = (
    "rate",
    "tokens",
    "concurrent",
    "module",
    "door",
)
STORE_COUNTERS = tuple(StoreCounters.__annotations__)

_Part = TypeVar("_Part", bound=Any)


def part_of(kind: type[_Part], source: object) -> _Part:
    """Return the part `kind` of the document, each entry the attribute of `source` that has its name."""
    return cast(_Part, {name: getattr(source, name) for name in kind.__annotations__})


def no_tokens() -> WorkerCounters:
    """Return the counters of a worker that has computed nothing."""
    return {"prompt_tokens": 0, "cached_tokens": 0, "generated_tokens": 0, "retractions": 0}
