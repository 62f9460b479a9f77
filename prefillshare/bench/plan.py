"""What a measurement consists of: every system under every load, again and again, in turn."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from prefillshare.bench.drivers.load import Load
from prefillshare.bench.families.changed import check_changes
from prefillshare.bench.metrics.summary import Slo
from prefillshare.bench.systems.factory import make_systems
from prefillshare.bench.workloads.base import Shape
from prefillshare.bench.workloads.factory import check_workload
from prefillshare.config.store import parse_size
from prefillshare.errors import BenchError

WARM_UP_TAG = "warm-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run: one system, one number of modules, one load, one repeat."""

    repeat: int
    """From 1 on."""
    num_modules: int
    """Decode modules."""
    system: str
    """Name of the system."""
    load: Load
    """How hard it is driven."""

    @property
    def key(self) -> str:
        """Name of its file."""
        return f"n{self.num_modules}-{self.load.key}-{self.system}-r{self.repeat}"

    @property
    def title(self) -> str:
        """What people are told of it."""
        return f"repeat {self.repeat}, {self.num_modules} modules, {self.load.title}: {self.system}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A measurement, enough to repeat it."""

    workload: str
    """Name of the workload."""
    file: Path | None = None
    """File that it is made from."""
    family: str
    """Family or deployment file."""
    systems: tuple[str, ...] = ()
    """Systems that are started, in the order in which they take turns; ratios are of the first to the others."""
    endpoints: tuple[str, ...] = ()
    """Servers that run already, as NAME=URL."""
    module_counts: tuple[int, ...] = (4,)
    """Numbers of decode modules."""
    loads: tuple[Load, ...]
    """Levels of load."""
    repeats: int = 3
    """Starts of each system."""
    shape: Shape
    """Sizes of the workload."""
    kv_tokens: int | None = None
    """KV budget of each system in tokens, over all of its engines; None leaves it to the engines."""
    store_memory: str | None = None
    """Size of the store's memory, such as "4 GiB", of PrefillShare's systems; None serves them without a store."""
    slo: Slo
    """What a good call is."""
    num_checked: int = 8
    """Answers of each shared system that are compared with the reference, per number of modules and load."""
    call_timeout_s: float = 900.0
    """Seconds after which a call counts as failed."""
    run_limit_s: float | None = None
    """Seconds after which each run is cut, whatever the system; None lets it come to its end."""
    time_limit_s: float | None = None
    """Seconds that each call of the command may take; what does not fit is left out."""
    changes: tuple[str, ...] = ()
    """Keys of the deployments that are set otherwise than the family has them, as KEY=VALUE."""
    command: str = ""
    """The command line, for the report."""
    tags: tuple[str, ...] = field(default=())
    """Notes for the report."""

    def __post_init__(self) -> None:
        check_workload(self.workload, self.file)
        make_systems(self.systems, self.endpoints)
        check_changes(self.changes, self.systems)
        if self.store_memory is not None:
            parse_size(self.store_memory, "--store")
        if not self.loads or not self.module_counts:
            raise BenchError("there is no load or no number of modules: give --concurrency or --rate, and --modules")
        if min(self.module_counts) < 1 or self.repeats < 1:
            raise BenchError("--modules and --repeats must be at least 1")
        for option, limit in (("--run-limit", self.run_limit_s), ("--time-limit", self.time_limit_s)):
            if limit is not None and limit <= 0:
                raise BenchError(f"{option} must be more than 0")

    @property
    def system_names(self) -> tuple[str, ...]:
        """Systems and endpoints by name, in their order."""
        return tuple(system.name for system in make_systems(self.systems, self.endpoints))

    def shape_for(self, load: Load, context_length: int) -> Shape:
        """The workload's sizes under a load: a closed loop needs enough sessions to keep its number up."""
        wanted = self.shape.num_sessions
        if load.kind == "closed":
            wanted = max(wanted, 2 * int(load.value))
        return replace(self.shape, num_sessions=wanted, context_length=min(self.shape.context_length, context_length))

    def groups(self) -> Iterator[tuple[Cell, ...]]:
        """Cells of one start of one system; the systems take turns within each repeat: A B A B."""
        for num_modules in self.module_counts:
            for repeat in range(1, self.repeats + 1):
                for system in self.system_names:
                    yield tuple(
                        Cell(repeat=repeat, num_modules=num_modules, system=system, load=load) for load in self.loads
                    )

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {**asdict(self), "file": str(self.file) if self.file else None}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Plan":
        """The plan that `as_dict` wrote.

        Raises: BenchError when it is of another version.
        """
        try:
            shape = dict(content["shape"])
            for name in ("output_tokens", "tags"):
                shape[name] = tuple(shape[name])
            values = content | {
                "file": Path(content["file"]) if content["file"] else None,
                "loads": tuple(Load(**load) for load in content["loads"]),
                "shape": Shape(**shape),
                "slo": Slo(**content["slo"]),
                "changes": tuple(content.get("changes", ())),
            }
            for name in ("systems", "endpoints", "module_counts", "tags"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise BenchError(
                f"the plan cannot be read ({error!r}): another version wrote it, start a new measurement"
            ) from None
