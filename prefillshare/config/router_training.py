"""What a training file of `prefillshare train --router` may say: conversations by the module that they are for.

Paths are relative to the file. docs/training.md shows one with every key.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prefillshare.config.checks import check_positive
from prefillshare.config.training import BaseModel, Data
from prefillshare.errors import ConfigError
from prefillshare.naming.alias import NAME

MIN_LABELS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledData:
    """Conversations that one module is to answer."""

    name: str
    """Decode module of a deployment, or an alias there."""
    data: Data
    """The conversations: each turn to learn stands for the prompt before it."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f"name is {self.name!r}: it must be that of a module, up to 64 letters, digits, dots, dashes and "
                "underscores"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How the classifier is fitted and tried."""

    weight_decay: float = 1e-3
    """Weight of the squared weights beside the mean loss of a prompt, on states that have mean 0 and deviation 1."""
    held_out: float = 0.2
    """Part of each module's conversations that it is not fitted on: half of them say how sure it may be, the other half
    how often it is right."""

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}: it must be 0 or more")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}: it must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """How the prefill module looks at the prompts."""

    max_tokens: int = 4096
    """Longest prompt in tokens; longer ones are counted and left out."""
    size_tokens: int = 8192
    """Tokens of one pass, padding included; a longer prompt is a pass of its own."""
    dtype: Literal["bf16", "fp32"] | None = None
    """Numbers in which it computes; when not given, bf16 on a GPU and fp32 on a CPU, as it is served."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "size_tokens"):
            check_positive(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterTraining:
    """One training file of a classifier."""

    name: str
    """Name of the classifier, as its manifest says it."""
    output: Path
    """Directory of the finished classifier."""
    seed: int = 0
    """Seed of the choice of held-out conversations."""
    base: BaseModel
    """The prefill module whose hidden states it reads."""
    modules: tuple[LabelledData, ...]
    """What it chooses from, with data for each."""
    head: Head = field(default_factory=Head)
    """How it is fitted."""
    passes: Passes = field(default_factory=Passes)
    """How the prefill module looks at the prompts."""
    source: Path | None = None
    """File that this was read from; not a key of the file."""

    def __post_init__(self) -> None:
        names = [module.name for module in self.modules]
        if len(names) < MIN_LABELS:
            raise ConfigError(f"there are {len(names)} [[modules]]: a choice needs {MIN_LABELS} at least")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{twice[0]!r} stands in two [[modules]] tables: put its data into one file")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}: it must lie between 0 and 4294967295")
