"""What a deployment file may say, with its defaults. What depends on the machine is None here and chosen later:
`serving.plan.cpu` where no GPU is, `serving.plan.placement` and SGLang where one is.

The field names are the keys of the TOML file: `Deployment` is its top level, `PrefillModule` the `[prefill]` table,
`DecodeModule` one `[[decode]]` table, `Engine` the `[engine]` table.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prefillshare.config.cluster import Cluster
from prefillshare.config.engine_changes import EngineChanges, check_changes, engine_of
from prefillshare.config.modules import Modules
from prefillshare.config.responses import Responses
from prefillshare.config.roles import Roles
from prefillshare.config.router import Router
from prefillshare.config.store import MIN_PAGE_TOKENS, Store
from prefillshare.config.tenants import Tenants
from prefillshare.errors import ConfigError, short_repr
from prefillshare.naming.alias import NAME, AnyAlias

_ENDPOINT = re.compile(r"(https?://)?[^\s/:]+:\d+/?")
_MAX_NAME_BYTES = 100
"""Beside a module's name and a time, in the name of a log file."""
_MAX_WORKERS = 1024
"""Of a kind: more are a slip of the keyboard, and would take all ports and open files of a machine."""
_REVISION_DEFAULT = "main"
MEMORY_WAIT_S = 300.0
"""Where a deployment file does not say how long a new session waits for memory."""

# Flags of `sglang serve` that extra_args must not set, and where their values come from instead.
_FROM_MODULES = "it follows from the [[decode]] tables"
_FROM_STORE = "write a [store] table, from which it follows"
OWNED_ARGUMENTS: dict[str, str] = {
    "--model-path": "write path or hub under [prefill]",
    "--model": "write path or hub under [prefill]",
    "--served-model-name": "write name under [prefill]",
    "--revision": "write revision under [prefill]",
    "--lora-paths": _FROM_MODULES,
    "--enable-lora": _FROM_MODULES,
    "--max-loras-per-batch": _FROM_MODULES,
    "--max-loaded-loras": _FROM_MODULES,
    "--max-lora-rank": _FROM_MODULES,
    "--lora-target-modules": _FROM_MODULES,
    "--radix-cache-backend": "the shared prefix cache is always on",
    "--disable-radix-cache": "the shared prefix cache is always on",
    "--disable-overlap-schedule": "write overlap_schedule = false",
    "--tp-size": "write tensor_parallel_size",
    "--tp": "write tensor_parallel_size",
    "--base-gpu-id": "choose the GPUs with CUDA_VISIBLE_DEVICES",
    "--gpu-id-step": "choose the GPUs with CUDA_VISIBLE_DEVICES",
    "--enable-hierarchical-cache": _FROM_STORE,
    "--hicache-ratio": "write host_ratio under [store]",
    "--hicache-size": "write host_ratio under [store]",
    "--hicache-write-policy": _FROM_STORE,
    "--hicache-io-backend": _FROM_STORE,
    "--hicache-mem-layout": _FROM_STORE,
    "--hicache-storage-backend": _FROM_STORE,
    "--hicache-storage-prefetch-policy": _FROM_STORE,
    "--hicache-storage-backend-extra-config": _FROM_STORE,
    "--disaggregation-mode": "write topology at the top of the file",
    "--config": "write what it holds as keys and extra_args",
    "--host": "use `prefillshare launch --host`",
    "--port": "use `prefillshare launch --port`",
    "--enable-metrics": "metrics are always on",
    "--enable-trace": "write otlp_endpoint at the top of the file",
    "--otlp-traces-endpoint": "write otlp_endpoint at the top of the file",
    "--api-key": "use `prefillshare launch --api-key`",
}


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}: it must be at least 1")


def _check_number_of_workers(name: str, value: int) -> None:
    _check_positive(name, value)
    if value > _MAX_WORKERS:
        raise ConfigError(f"{name} is {value}: it must be at most {_MAX_WORKERS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Module:
    name: str
    """Name that clients put into "model"."""
    path: Path | None = None
    """Directory of the module, relative to the deployment file; this or `hub`."""
    hub: str | None = None
    """Repository on the Hugging Face hub, such as Qwen/Qwen3-8B; this or `path`."""
    revision: str | None = None
    """Branch, tag or commit of `hub`; main when not given."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f"name {short_repr(self.name)} cannot be a model name: use up to 64 letters, digits, dots, dashes and "
                "underscores, starting with a letter or digit"
            )
        if (self.path is None) == (self.hub is None):
            what = "neither path nor hub" if self.path is None else "both path and hub"
            raise ConfigError(f"module {self.name!r} has {what}: give exactly one of them")
        if self.revision is not None and self.hub is None:
            raise ConfigError(
                f"module {self.name!r} has revision {self.revision!r} but no hub: remove revision, a path has none"
            )

    @property
    def hub_revision(self) -> str:
        """Revision to fetch from the hub."""
        return self.revision or _REVISION_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillModule(_Module):
    """The frozen base model that makes the KV of every prompt."""

    workers: int = 1
    """Prefill workers in the pool, 1,024 at most; disaggregated only."""
    eager_answers: bool = True
    """Compute what an answer adds to the next prompt before that comes, when nobody waits."""
    eager_min_tokens: int = 32
    """Shortest answer that is computed ahead, in tokens: below, a step of the engine costs more than it saves. The tiny
    base on a CPU spends as much on a step itself as on 36 tokens."""

    def __post_init__(self) -> None:
        _Module.__post_init__(self)
        _check_number_of_workers("workers", self.workers)
        _check_positive("eager_min_tokens", self.eager_min_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeModule(_Module):
    """One task model that decodes over the prefill module's KV."""

    kind: Literal["lora", "full"]
    """`lora`: an adapter on the prefill module's weights. `full`: its own weights; disaggregated only."""
    merge: bool = False
    """For `full`: the directory holds an adapter, to be merged into the prefill module's weights on first launch."""
    replicas: int = 1
    """Decode workers that hold this module, 1,024 at most; disaggregated only."""
    share: bool = True
    """Whether its prompts are computed by the prefill module, for all. false: an adapter that was trained the ordinary
    way computes its prompts itself, and keeps their KV for itself."""
    accept_naive: bool = False
    """Serve it although it was not trained on the prefill module's KV, or nobody knows how; it answers badly."""
    example: str = "Hello!"
    """A question it can answer; `launch` ends with a curl line that asks it of the first module."""
    engine: EngineChanges | None = None
    """What its workers have in place of [engine] and [engine.decode]; disaggregated only."""

    @property
    def worker_role(self) -> Literal["decode", "engine"]:
        """What its workers are in a disaggregated deployment: one that computes its own prompts has nothing of prefill
        workers, and serves whole calls."""
        return "decode" if self.share else "engine"

    @property
    def sharing_ratio(self) -> float:
        """Part of each prompt whose KV is the prefill module's when it is served."""
        return 1.0 if self.share else 0.0

    def __post_init__(self) -> None:
        _Module.__post_init__(self)
        _check_number_of_workers("replicas", self.replicas)
        if self.merge and self.kind != "full":
            raise ConfigError(
                f'module {self.name!r} has merge = true and kind = "lora": write kind = "full" to serve the merged '
                "weights, or remove merge"
            )
        if not self.share and self.kind != "lora":
            raise ConfigError(
                f'module {self.name!r} has share = false and kind = "full": only an adapter (kind = "lora") computes '
                "its prompts itself here; serve full weights by a server of their own"
            )
        if not self.share and self.accept_naive:
            raise ConfigError(
                f"module {self.name!r} has share = false and accept_naive = true: with its own prompts it answers as "
                "it was trained to, remove accept_naive"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Settings of the SGLang engine; what is not given is chosen for the machine or left to SGLang."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; `auto` takes a CUDA GPU when there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and KV of all modules; `auto` is float32 on CPU, else the prefill module's own (float16 for one
    in float32). There is no float32 on a GPU."""
    page_size: int | None = None
    """Tokens per page of the KV cache; prefixes are shared in whole pages. None is 1, and 16 for a disaggregated
    deployment on GPUs and for one with a store."""
    context_length: int | None = None
    """Longest prompt plus answer in tokens; None is the model's own limit."""
    max_total_tokens: int | None = None
    """Size of each worker's KV cache in tokens; None fills the memory share, or an equal part of it where workers
    share a GPU; on CPU, a quarter of what is free, at most 2 GiB and 65536 tokens."""
    mem_fraction_static: float | None = None
    """Share of the GPU's memory for weights and KV cache of one worker, between 0 and 1."""
    max_running_requests: int | None = None
    """Most requests decoded together; None is SGLang's choice (32 on CPU)."""
    chunked_prefill_size: int | None = None
    """Most prompt tokens computed in one step; None is SGLang's choice (512 on CPU)."""
    attention_backend: str | None = None
    """SGLang attention backend, such as triton or flashinfer; None is torch_native on CPU, else triton."""
    lora_backend: Literal["csgmv", "triton", "torch_native"] | None = None
    """Kernels for LoRA; None is torch_native on CPU, else csgmv."""
    tensor_parallel_size: int = 1
    """GPUs that share one copy of the weights."""
    threads: int | None = None
    """CPU threads of each engine process; None is, on CPU, 1 with up to 4 cores, else half of the cores up to 8."""
    random_seed: int | None = None
    """Seed of sampling; None is a new one per start."""
    reasoning_parser: str | None = None
    """SGLang parser that splits thinking from the answer, such as qwen3."""
    tool_call_parser: str | None = None
    """SGLang parser for tool calls, such as qwen25 or llama3."""
    overlap_schedule: bool | None = None
    """Prepare the next batch while the current one runs; None is on a GPU only: on a CPU nothing overlaps, and every
    token would wait for the step after its own."""
    memory_wait_s: float | None = None
    """Longest time that a new session waits while the contexts of those under way fill the KV cache; 0: nobody waits.
    None is 300, and 0 for a deployment with a store, from which an evicted context comes back. Colocated only."""
    extra_args: tuple[str, ...] = ()
    """Further arguments of `sglang serve`, each flag and each value a string of its own."""
    prefill: EngineChanges | None = None
    """What prefill workers have in place of it; disaggregated only."""
    decode: EngineChanges | None = None
    """What decode workers have in place of it; disaggregated only."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None:
                _check_positive(name, value)
        if self.mem_fraction_static is not None and not 0 < self.mem_fraction_static < 1:
            raise ConfigError(
                f"mem_fraction_static is {self.mem_fraction_static}: it must lie between 0 and 1, such as 0.8"
            )
        if self.memory_wait_s is not None and not 0 <= self.memory_wait_s < math.inf:
            raise ConfigError(
                f"memory_wait_s is {self.memory_wait_s}: it must be a number of seconds, or 0 where nobody shall wait"
            )
        for argument in self.extra_args:
            flag = argument.partition("=")[0]
            if advice := OWNED_ARGUMENTS.get(flag) or self._own_key(flag):
                raise ConfigError(f"extra_args sets {flag}, which it must not: {advice}")

    def _own_key(self, flag: str) -> str | None:
        key = flag.removeprefix("--").replace("-", "_")
        return f"write {key} under [engine]" if flag.startswith("--") and key in self.__slots__ else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How KV goes from prefill workers to decode workers; disaggregated only."""

    backend: Literal["nixl", "mooncake"] = "nixl"
    """Library that moves the KV."""
    shared_memory: bool = True
    """Whether a prefill worker writes KV right into the memory of a decode worker on the same machine, where both keep
    it in the host's memory; else, and with another backend than `nixl`, `backend` moves it."""
    timeout_s: int = 300
    """Longest wait for a prompt's KV in seconds, the prefill worker's queue included; then the call fails."""

    def __post_init__(self) -> None:
        _check_positive("timeout_s", self.timeout_s)


_POSITIVE = (
    "page_size",
    "context_length",
    "max_total_tokens",
    "max_running_requests",
    "chunked_prefill_size",
    "tensor_parallel_size",
    "threads",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment file."""

    name: str
    """Name of the deployment, for people."""
    topology: Literal["colocated", "disaggregated"] = "colocated"
    """`colocated`: one engine with the prefill module's weights and all decode modules as adapters. `disaggregated`: a
    pool of prefill workers, one or more decode workers per module, and a router."""
    prefill: PrefillModule
    """The shared prefill module."""
    decode: tuple[DecodeModule, ...]
    """The decode modules."""
    engine: Engine = field(default_factory=Engine)
    """Engine settings; disaggregated, those of every worker."""
    router: Router = field(default_factory=Router)
    """The router; disaggregated only."""
    transfer: Transfer = field(default_factory=Transfer)
    """The hand-off; disaggregated only."""
    store: Store | None = None
    """Memory of the host and one store for all engines; None has neither."""
    cluster: Cluster | None = None
    """Placement on the nodes of a cluster; disaggregated only."""
    roles: Roles = field(default_factory=Roles)
    """Whether workers change their role with the load; disaggregated only."""
    responses: Responses = field(default_factory=Responses)
    """How much of what `/v1/responses` answered is remembered."""
    modules: Modules = field(default_factory=Modules)
    """Decode modules that come while it serves."""
    aliases: dict[str, AnyAlias] = field(default_factory=dict)
    """Other names of decode modules: `latest = "math-v2"`, several by weight, such as
    `math = { "math-v1" = 0.9, "math-v2" = 0.1 }`, or by rules over what a call says (`default`, `rules`)."""
    tenants: Tenants | None = None
    """Who may call beside the operator, and how much; None knows one key for all."""
    otlp_endpoint: str | None = None
    """OTLP gRPC receiver of OpenTelemetry traces, such as http://localhost:4317; None makes no traces."""
    source: Path | None = None
    """File that this was read from; not a key of the file."""
    overrides: tuple[str, ...] = ()
    """What `--set` changed of it; not a key of the file."""

    def __post_init__(self) -> None:
        if not self.name.isprintable() or len(self.name.encode()) > _MAX_NAME_BYTES:
            raise ConfigError(
                f"name {self.name[:60]!r} cannot be the name of a deployment: use printable characters, up to "
                f"{_MAX_NAME_BYTES} bytes of them"
            )
        if self.otlp_endpoint is not None and not _ENDPOINT.fullmatch(self.otlp_endpoint):
            raise ConfigError(
                f"otlp_endpoint is {self.otlp_endpoint!r}: it must be an address such as http://localhost:4317"
            )
        if not self.decode:
            raise ConfigError("there is no decode module: add a [[decode]] table with name, kind and path")
        seen = {self.prefill.name: "the prefill module"}
        for number, module in enumerate(self.decode, start=1):
            if module.name in seen:
                raise ConfigError(
                    f"name {module.name!r} of decode module {number} is also that of {seen[module.name]}: "
                    "give each module its own name"
                )
            seen[module.name] = f"decode module {number}"
        if self.topology == "colocated":
            self._check_colocated()
        else:
            self._check_disaggregated()
        check_changes(self)
        if self.store is not None and (self.engine.page_size or MIN_PAGE_TOKENS) < MIN_PAGE_TOKENS:
            raise ConfigError(
                f"page_size is {self.engine.page_size} and a store looks up, checks and copies page by page, which "
                f"costs more than prefilling: set page_size = {MIN_PAGE_TOKENS} or more under [engine], or remove "
                "[store]"
            )

    def _check_colocated(self) -> None:
        for module in self.decode:
            if module.kind == "full":
                raise ConfigError(
                    f'decode module {module.name!r} has kind = "full", which topology = "colocated" cannot serve: '
                    'use its LoRA adapter with kind = "lora", or write topology = "disaggregated"'
                )
            if module.replicas > 1:
                raise ConfigError(
                    f"decode module {module.name!r} has replicas = {module.replicas}, and one engine serves them all "
                    'in topology = "colocated": remove replicas, or write topology = "disaggregated"'
                )
        if self.prefill.workers > 1:
            raise ConfigError(
                f'[prefill] has workers = {self.prefill.workers}, and topology = "colocated" has one engine: remove '
                'workers, or write topology = "disaggregated"'
            )

    def _check_disaggregated(self) -> None:
        if self.engine.memory_wait_s:
            raise ConfigError(
                f"memory_wait_s is {self.engine.memory_wait_s}, and sessions wait for memory in topology = "
                '"colocated" only: remove it'
            )

    def engine_of(self, role: str, module: str | None = None) -> Engine:
        """Return the engine settings of the workers of a role, for decode workers of a module."""
        return engine_of(self, role, module)

    @property
    def memory_wait_s(self) -> float:
        """Longest time that a new session waits for memory; 0 where none does."""
        if self.engine.memory_wait_s is not None:
            return self.engine.memory_wait_s
        return MEMORY_WAIT_S if self.store is None else 0.0

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name a client may put into "model": decode modules, aliases, then, colocated, the prefill module."""
        own = (self.prefill.name,) if self.topology == "colocated" else ()
        return (*(module.name for module in self.decode), *self.aliases, *own)
