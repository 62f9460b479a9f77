"""What one role or module of a disaggregated deployment has in place of `[engine]`.

`[engine.prefill]`, `[engine.decode]`, and `engine = { ... }` in a `[[decode]]` table, which wins over the role's.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefillshare.errors import ConfigError

if TYPE_CHECKING:
    from prefillshare.config.schema import DecodeModule, Deployment, Engine

_SAME = ("page_size", "context_length")
"""KV is handed over in whole pages, and both workers of a call must take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChanges:
    """Keys of [engine] with other values; what is not given stays as it is there."""

    tensor_parallel_size: int | None = None
    """GPUs that share one copy of the weights."""
    max_total_tokens: int | None = None
    """Size of each worker's KV cache in tokens."""
    mem_fraction_static: float | None = None
    """Share of the GPU's memory for weights and KV cache of one worker, between 0 and 1."""
    max_running_requests: int | None = None
    """Most requests decoded together."""
    chunked_prefill_size: int | None = None
    """Most prompt tokens computed in one step."""
    attention_backend: str | None = None
    """SGLang attention backend."""
    threads: int | None = None
    """CPU threads of each engine process."""
    overlap_schedule: bool | None = None
    """Prepare the next batch while the current one runs."""
    extra_args: tuple[str, ...] | None = None
    """Further arguments of `sglang serve`, in place of those under [engine]."""
    page_size: int | None = None
    """May be written, and must be that of [engine]: KV is handed over in whole pages."""
    context_length: int | None = None
    """May be written, and must be that of [engine]: both workers of a call must take it."""

    def given(self) -> dict[str, object]:
        """Return the keys that have a value."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def engine_of(deployment: "Deployment", role: str, module: str | None) -> "Engine":
    """Return the engine settings of a worker of `role`, which holds `module` if it is no prefill worker.

    An engine of a module that computes its own prompts is neither kind of worker: it has those of its module alone.
    """
    changes = dict(_changes_of(deployment, role, module))
    engine = deployment.engine
    if engine.prefill is None and engine.decode is None and not changes:
        return engine
    return dataclasses.replace(engine, prefill=None, decode=None, **changes)  # type: ignore[arg-type]


def check_changes(deployment: "Deployment") -> None:
    """Raises: ConfigError for changes that nothing would hear, that must not be, or whose values are wrong."""
    for where, changes in _tables(deployment):
        if deployment.topology == "colocated":
            raise ConfigError(
                f'there is {where}, and in topology = "colocated" one engine serves all: write it under [engine], or '
                'topology = "disaggregated"'
            )
        _check_same(deployment.engine, changes, where)
    for role, module in _kinds(deployment):
        try:
            engine_of(deployment, role, module)
        except ConfigError as error:
            raise ConfigError(f"engine of {module or role}: {error}") from None
    _check_store(deployment)
    kinds = [(role, module) for role, module in _kinds(deployment) if role != "engine"]  # which keeps its role
    sizes = {engine_of(deployment, role, module).tensor_parallel_size for role, module in kinds}
    if len(sizes) > 1 and deployment.roles.follow_load:
        raise ConfigError(
            f"tensor_parallel_size is {' and '.join(map(str, sorted(sizes)))} for different workers, and a worker that "
            "changes its role keeps its GPUs: write one size, or remove follow_load under [roles]"
        )


def _check_store(deployment: "Deployment") -> None:
    """A store keeps pages by rank: each number of ranks would have a memory of its own."""
    kinds = [(role, module) for role, module in _kinds(deployment) if role != "decode"]
    sizes = {engine_of(deployment, role, module).tensor_parallel_size for role, module in kinds}
    if deployment.store is not None and len(sizes) > 1:
        raise ConfigError(
            f"tensor_parallel_size is {' and '.join(map(str, sorted(sizes)))} for prefill workers and modules with "
            "share = false, and all of them use the [store], which keeps pages by rank: write one size for them"
        )


def _check_same(engine: "Engine", changes: EngineChanges, where: str) -> None:
    for name in _SAME:
        value, common = getattr(changes, name), getattr(engine, name)
        if value is not None and value != common:
            said = "does not say it" if common is None else f"says {common}"
            raise ConfigError(
                f"{name} is {value} in {where} and [engine] {said}: it must be the same for all workers, so write "
                f"{name} = {value} under [engine]"
            )


def _changes_of(deployment: "Deployment", role: str, module: str | None) -> Iterator[tuple[str, object]]:
    by_role: Mapping[str, EngineChanges | None] = {
        "prefill": deployment.engine.prefill,
        "decode": deployment.engine.decode,
    }
    if (of_role := by_role.get(role)) is not None:
        yield from of_role.given().items()
    found = None if module is None else _find(deployment, module)
    if found is not None and found.engine is not None:
        yield from found.engine.given().items()


def _find(deployment: "Deployment", name: str) -> "DecodeModule | None":
    return next((module for module in deployment.decode if module.name == name), None)


def _tables(deployment: "Deployment") -> Iterator[tuple[str, EngineChanges]]:
    if deployment.engine.prefill is not None:
        yield "[engine.prefill]", deployment.engine.prefill
    if deployment.engine.decode is not None:
        yield "[engine.decode]", deployment.engine.decode
    for module in deployment.decode:
        if module.engine is not None:
            yield f"engine of module {module.name!r}", module.engine


def _kinds(deployment: "Deployment") -> Iterator[tuple[str, str | None]]:
    yield "prefill", None
    for module in deployment.decode:
        yield module.worker_role, module.name
