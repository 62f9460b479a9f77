"""What a task file of `prefillshare grow` may say: one task that a family of decode modules learns.

Paths are relative to the file. docs/grow.md shows one with every key.
"""

from dataclasses import dataclass, field
from pathlib import Path

from prefillshare.config.training import BaseModel, Batch, Data, HeldOut, Lora, Optimizer, Run, Training
from prefillshare.errors import ConfigError

DEFAULT_HELD_OUT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How the task is looked for among what the family has, and what may be added."""

    tau: float = 0.0
    """Held-out loss that is good enough, per answer token: above it, units are added. 0 adds in every round."""
    units: int = 32
    """Units per matrix that a round adds, before those without use are removed."""
    max_rounds: int = 1
    """Rounds of adding, at most."""
    min_gain: float = 0.05
    """Part of the held-out loss that counts as a gain: a round of less is taken back, passes are repeated while they
    bring as much, and an earlier task is a start only where it is better than none by that."""
    max_cycles: int = 4
    """Times that the `epochs` passes of a round are taken, at most: again while the last ones were a gain."""
    select_epochs: float = 2.0
    """Passes over the data in which gates of earlier units are chosen."""
    max_reused: int = 24
    """Earlier units per matrix, at most; the strongest stay. With `units` and `max_rounds` it bounds the rank of the
    adapter, which the engine pays for."""
    retrain_epochs: float = 2.0
    """Passes in which the chosen units themselves may move."""
    retrain_rate: float = 2e-3
    """Peak learning rate of units that have learned before: the chosen ones, and in a repair all of the task's own."""
    gate_rate: float = 0.02
    """Peak learning rate of gates."""
    gate_l1: float = 0.5
    """Part of a step by which every gate shrinks: what helps less often than that ends at exactly 0."""
    group_lasso: float = 0.0
    """The same for whole new units, up to the end of a round's first cycle: what ends at 0 is removed."""
    drift_lasso: float = 0.7
    """The same for how far a chosen unit moves: what ends at 0 is where it was."""
    max_drift: float = 0.12
    """Distance, in units of its own length, from which a unit that moved becomes a copy of the new task's; below, it is
    put back and stays shared."""
    prune_tolerance: float = 0.05
    """Part of the held-out loss that removing weak units may cost, in the end; 0 removes nothing."""
    max_repairs: int = 2
    """Times that more units go and the others make good for it, at most; 0 removes only what costs no more at once."""
    repair_epochs: float = 2.0
    """Passes over the data of a repair, at `retrain_rate`."""
    kv_cache_mib: int = 2048
    """Memory for the base's KV of the data, which all passes share; what does not fit is computed in each pass."""

    def __post_init__(self) -> None:
        for name in ("units", "max_rounds", "max_cycles"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("tau", "min_gain", "gate_l1", "group_lasso", "drift_lasso", "max_drift", "prune_tolerance"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be 0 or more")
        for name in ("select_epochs", "retrain_epochs", "repair_epochs", "retrain_rate", "gate_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be more than 0")
        for name in ("max_reused", "max_repairs", "kv_cache_mib"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowTask:
    """One task file."""

    name: str
    """Name of the task, and of its decode module."""
    seed: int = 0
    """Seed of the order of rows and of new units."""
    targets: tuple[str, ...] | None = None
    """Linear layers that carry units; of all tasks of a family the same. When not given: the family's, or all."""
    base: BaseModel
    """The prefill module of the family."""
    data: Data
    """What to learn from."""
    batch: Batch = field(default_factory=Batch)
    """What a step sees."""
    optimizer: Optimizer
    """How new units change; `epochs` is per cycle of a round."""
    run: Run = field(default_factory=Run)
    """How the run computes; there are no checkpoints, since a task is appended as a whole."""
    evaluation: HeldOut = field(default_factory=lambda: HeldOut(rows=DEFAULT_HELD_OUT))
    """Rows on which the loss is measured that decides."""
    growth: Growth = field(default_factory=Growth)
    """What may be added."""
    source: Path | None = None
    """File that this was read from; not a key of the file."""

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"name is {self.name!r}: use letters, digits, - and _, since it names a folder")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}: it must lie between 0 and 4294967295")
        if self.evaluation.rows < 1:
            raise ConfigError(
                f"rows is {self.evaluation.rows} under [evaluation]: hold out at least one row, since the loss on them "
                "decides what is added"
            )
        if self.evaluation.sharing_ratio != 1:
            raise ConfigError(
                f"sharing_ratio is {self.evaluation.sharing_ratio:g} under [evaluation]: remove it, a family is grown "
                "over the base's KV of the whole prompt"
            )
        Lora(targets=self.targets)  # the same names are possible

    def as_training(self, output: Path) -> Training:
        """The task as a training run, which reads and tokenises the same data."""
        return Training(
            name=self.name,
            output=output,
            kind="lora",
            seed=self.seed,
            base=self.base,
            data=self.data,
            batch=self.batch,
            optimizer=self.optimizer,
            lora=Lora(targets=self.targets),
            run=self.run,
            evaluation=self.evaluation,
            source=self.source,
        )
