"""What a deployment says of itself at one moment: `GET /deployment/state` as frozen values.

Counters are cumulative since the process that counts them started; None means that nobody knows, never zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

LATENCIES = ("ttft", "itl", "e2e", "queue")
"""Names of a module's histograms: time to first token, between tokens, end to end, in the queue."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values by size."""

    bounds: tuple[float, ...]
    """Upper bounds of the buckets, rising; the last one is infinite. Seconds."""
    counts: tuple[float, ...]
    """Values in each bucket, not cumulative over the bounds."""
    sum: float
    """Sum of all values. Seconds."""

    @property
    def num_values(self) -> float:
        """How many values were counted."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One decode module, or the prefill module asked by its own name."""

    name: str
    """What clients put into "model"."""
    kind: str = ""
    """lora, full or base."""
    is_prefill_module: bool = False
    """Whether it is the frozen base model."""
    warning: str = ""
    """Why its answers are not to be trusted; empty when there is nothing to say."""
    requests: float | None = None
    """Calls that ended, errors and aborted ones included."""
    errors: float | None = None
    """Calls that failed."""
    refused: float | None = None
    """Calls that the caller has to change, or to repeat later."""
    aborted: float | None = None
    """Calls that the client gave up."""
    running: float | None = None
    """Calls in work now."""
    queued: float | None = None
    """Calls waiting now."""
    prompt_tokens: float | None = None
    """Tokens of all prompts: own hits, cross-module hits and missed ones."""
    own_hit_tokens: float | None = None
    """Prompt tokens whose KV this module's own earlier calls had made."""
    cross_hit_tokens: float | None = None
    """Prompt tokens whose KV was first made for another decode module."""
    avoidable_tokens: float | None = None
    """Missed ones that were there for modules that share their prompts, which this one does not."""
    generated_tokens: float | None = None
    """Tokens of all answers."""
    latency: Mapping[str, Histogram] = field(default_factory=dict)
    """By the names in LATENCIES, those that the server counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kv:
    """KV memory of one worker. Tokens."""

    capacity_tokens: float | None = None
    """What fits."""
    shared_tokens: float | None = None
    """Held by the shared prefix tree."""
    private_tokens: float | None = None
    """Used by requests beyond the tree."""
    free_tokens: float | None = None
    """Unused."""
    evictable_tokens: float | None = None
    """Part of the shared tokens that may be dropped when room is needed."""
    pinned_tokens: float | None = None
    """Part of the shared tokens that callers want to have kept; dropped after all others."""
    token_bytes: float | None = None
    """Bytes of one token's KV."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """KV moved to or from a worker."""

    tokens: float | None = None
    """Tokens moved."""
    bytes: float | None = None
    """Bytes moved."""
    seconds: float | None = None
    """Time it took, summed over calls."""
    calls: float | None = None
    """Calls that moved something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eager:
    """What a worker computed before anybody asked."""

    tokens: float | None = None
    """Tokens computed."""
    hit_tokens: float | None = None
    """Those that a call has hit since."""
    dropped: float | None = None
    """Answers given up."""
    waiting: float | None = None
    """Answers still to be computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """KV that a decode worker was handed before any call asked for it."""

    pushed_tokens: float | None = None
    """Tokens handed over."""
    push_hit_tokens: float | None = None
    """Those that a call then need not be handed."""
    push_wasted_tokens: float | None = None
    """Those whose room others got before a call came."""
    dropped_pushes: float | None = None
    """Pushes that were ended for calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A worker's use of the deployment's store, and what that holds for all of them."""

    why_off: str | None = None
    """Why the worker goes on without; None while it has the store."""
    store_hit_tokens: float | None = None
    """Prompt tokens whose KV came from there."""
    host_hit_tokens: float | None = None
    """Those whose KV came from the worker's own tier in the host's memory."""
    written_pages: float | None = None
    """Pages that the worker wrote."""
    refused_pages: float | None = None
    """Pages that could not be kept."""
    damaged_pages: float | None = None
    """Pages that were not whole; they were computed again."""
    capacity_bytes: float | None = None
    """Size of the store."""
    used_bytes: float | None = None
    """What of it holds pages."""
    used_disk_bytes: float | None = None
    """Of that, what lies on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EagerJobs:
    """What became of the jobs by which a router has answers computed ahead."""

    done: float | None = None
    """Computed."""
    dropped: float | None = None
    """Gave way to calls that waited, or to newer jobs."""
    cancelled: float | None = None
    """The session's next call came first."""
    failed: float | None = None
    """A worker refused or failed."""
    pushed: float | None = None
    """Of those done, handed on to the decode worker of the module expected next."""
    waiting: float | None = None
    """Have not ended yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Calls of new sessions that wait while those under way fill the KV cache."""

    waiting: float | None = None
    """Calls that wait now."""
    held_back: float | None = None
    """Calls that had to wait."""
    overdue: float | None = None
    """Of these, those taken because they had waited for the longest time."""
    sessions: float | None = None
    """Sessions that are served, or whose context is kept."""
    held_tokens: float | None = None
    """KV that these take together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One process of the deployment."""

    id: str
    """Such as engine, prefill-0, decode-math-1, router."""
    role: str = ""
    """engine, prefill, decode or router."""
    module: str | None = None
    """Decode module that it holds."""
    url: str = ""
    """Its address."""
    pid: float | None = None
    """Its process id."""
    state: str = ""
    """up, down, starting, draining or failed."""
    restarts: float | None = None
    """How often it was started again."""
    running: float | None = None
    """Calls in work now."""
    queued: float | None = None
    """Calls waiting now."""
    prompt_tokens: float | None = None
    """Prompt tokens of its calls."""
    cached_tokens: float | None = None
    """Those that it did not compute again."""
    generated_tokens: float | None = None
    """Tokens generated."""
    retractions: float | None = None
    """Calls put back because memory ran out."""
    kv: Kv | None = None
    """None for the router and for workers that do not answer."""
    handoff: Handoff | None = None
    """None in the colocated topology."""
    eager: Eager | None = None
    """None where nothing is computed ahead."""
    admission: Admission | None = None
    """None where nobody waits for memory."""
    push: Push | None = None
    """Decode workers only."""
    store: Store | None = None
    """None for workers that use none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where the prompts of a session's modules part."""

    token: float | None = None
    """Tokens that they share from the start."""
    fraction: float | None = None
    """The same as a part of the prompt."""
    modules: tuple[str, ...] = ()
    """The modules whose prompts part there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One conversation that modules take turns in."""

    id: str
    """Its name."""
    is_explicit: bool = False
    """Whether the client named it; otherwise it was found by its prompts."""
    modules: tuple[str, ...] = ()
    """Modules that answered, in the order of their first call."""
    num_calls: float | None = None
    """Calls so far."""
    first_seen: float | None = None
    """Unix time of its first call. Seconds."""
    last_seen: float | None = None
    """Unix time of its latest call. Seconds."""
    running: float | None = None
    """Calls in work now."""
    context_tokens: float | None = None
    """Length of its longest prompt so far."""
    prompt_tokens: float | None = None
    """Tokens of all its prompts."""
    own_hit_tokens: float | None = None
    """Hits on KV that the answering module's own calls had made."""
    cross_hit_tokens: float | None = None
    """Hits on KV first made for another module."""
    repins: float | None = None
    """How often it moved to another prefill worker."""
    divergence: Divergence | None = None
    """None where its prompts are prefixes of one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    id: int
    """Rises by one."""
    time: float | None = None
    """Unix time. Seconds."""
    kind: str = ""
    """Such as restart, refusal, repin, worker_down."""
    subject: str = ""
    """What it happened to."""
    message: str = ""
    """What it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Calls of a tenant that were refused, by the reason."""

    rate: float | None = None
    """More calls in a second than it may begin."""
    tokens: float | None = None
    """More tokens in a minute."""
    concurrent: float | None = None
    """More calls at a time."""
    module: float | None = None
    """A module that is not its own."""
    door: float | None = None
    """A door that is the operator's."""

    @property
    def total(self) -> float | None:
        """All of them; None when nobody knows."""
        known = [each for each in (self.rate, self.tokens, self.concurrent, self.module, self.door) if each is not None]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One of those who call with keys of their own."""

    name: str
    """Its name in the tenants' file."""
    is_shared: bool = False
    """Whether it is in the common cache."""
    calls: float | None = None
    """Calls that began."""
    running: float | None = None
    """Calls that are being answered."""
    prompt_tokens: float | None = None
    """Tokens of its prompts."""
    cached_tokens: float | None = None
    """Those that were cached."""
    generated_tokens: float | None = None
    """Tokens of its answers."""
    kv_tokens: float | None = None
    """KV in its own namespace of the shared trees; None in the common cache."""
    refused: Refusals = Refusals()
    """Calls that were refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenants:
    """Who may call beside the operator."""

    items: tuple[Tenant, ...] = ()
    """In the order of their file."""
    unknown_keys: float | None = None
    """Requests with nobody's key, or none."""
    problem: str = ""
    """Why their file, as it is now, cannot be used; empty when it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A whole deployment at one moment."""

    time: float
    """The server's clock. Unix seconds."""
    started: float | None = None
    """When it started. Unix seconds."""
    name: str = ""
    """Name of the deployment."""
    topology: str = ""
    """colocated or disaggregated."""
    prefill_module: str = ""
    """Name of the prefill module."""
    modules: tuple[Module, ...] = ()
    """Decode modules and the prefill module."""
    workers: tuple[Worker, ...] = ()
    """Its processes."""
    sessions: tuple[Session, ...] = ()
    """Newest activity first."""
    num_sessions: float | None = None
    """All sessions, those not listed included."""
    events: tuple[Event, ...] = ()
    """Oldest first."""
    repins: float | None = None
    """Moves of sessions between prefill workers."""
    forwarded: float | None = None
    """Calls that the router passed on to the one of their session; None where there is only one."""
    eager_jobs: EagerJobs | None = None
    """None where no router has answers computed ahead."""
    tenants: Tenants | None = None
    """None where one key is everybody's."""
