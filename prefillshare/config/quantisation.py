"""What a file for `prefillshare quantize` may say: one decode module into 2-bit codebook weights.

Paths are relative to the file. docs/codebook.md shows one with every key.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prefillshare.codebook.shape import CodebookShape
from prefillshare.config.checks import check_optional_positive, check_positive
from prefillshare.config.training import BaseModel, Data
from prefillshare.errors import ConfigError, ModuleError


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModule:
    """The decode module that is quantised; it stays as it is."""

    path: Path
    """Directory of an adapter on the base, or of a module with full weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebooks:
    """How rows are cut up, and how codebooks are searched."""

    m: int = 1
    """Codes of a segment, each into a codebook of its own: 1 to 4."""
    b: int = 8
    """Bits of a code, 1 to 8; a codebook has 2^b entries."""
    v: int = 4
    """Inputs that a code stands for: 4, 8 or 16."""
    g: int = 128
    """Inputs that share a scale: a multiple of v, up to 512, that divides the inputs of every layer."""
    samples: int = 65536
    """Segments that k-means runs over."""
    rounds: int = 25
    """Rounds of k-means."""

    def __post_init__(self) -> None:
        check_positive("samples", self.samples)
        check_positive("rounds", self.rounds)
        try:
            _ = self.shape
        except ModuleError as error:
            raise ConfigError(str(error)) from None

    @property
    def shape(self) -> CodebookShape:
        """The format as kernels know it."""
        return CodebookShape(num_codebooks=self.m, code_bits=self.b, segment=self.v, group=self.g)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """How much each input of a layer counts: its mean square where the module computes."""

    rows: int = 128
    """Rows of the data that it is measured on; 0 counts all inputs alike."""

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ConfigError(f"rows is {self.rows}: it must be 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Codebooks, scales and norms trained by the cache-conditioned loss; the codes stay."""

    steps: int = 80
    """Steps of AdamW, of each layer where layers are tuned one by one; 0 leaves what k-means found."""
    by: Literal["auto", "module", "layer"] = "auto"
    """What is tuned at once: the whole module by its loss, or one decoder layer after the other, each against its full
    weights; auto takes the module where that fits into memory."""
    size: int = 8
    """Rows of a step."""
    codebook_rate: float = 3e-3
    """Peak learning rate of codebooks and norms."""
    scale_rate: float = 3e-4
    """Peak learning rate of scales."""
    warmup_steps: int = 5
    """Steps in which the rates rise; after them they fall to a tenth in a half cosine."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass instead of keeping their activations."""
    save_steps: int = 20
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be 0 or more")
        for name in ("size", "save_steps"):
            check_positive(name, getattr(self, name))
        for name in ("codebook_rate", "scale_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is measured of full weights, of k-means alone and of the finished module."""

    rows: int = 16
    """The last rows of the data, held out, whose loss is measured; 0 measures none."""
    suite: str | None = None
    """A suite of `prefillshare eval` whose problems are asked; none when not given."""
    problems: int | None = None
    """Only the first problems of it."""

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ConfigError(f"rows is {self.rows}: it must be 0 or more")
        check_optional_positive("problems", self.problems)
        if self.problems is not None and self.suite is None:
            raise ConfigError("problems stands without suite: name a suite, or remove problems")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """One file for `prefillshare quantize`."""

    name: str
    """Name of the new module, as its manifest says it."""
    output: Path
    """Directory of the finished module, and under run/ of what is needed to go on."""
    seed: int = 0
    """Seed of k-means and of the order of rows."""
    max_tokens: int = 1024
    """Longest conversation in tokens; longer ones are counted and left out."""
    base: BaseModel
    """The prefill module, in full precision, whose KV the module reads."""
    module: SourceModule
    """What is quantised."""
    data: Data | None = None
    """Conversations of the module's task; not needed without moments, tuning and held-out rows."""
    codebooks: Codebooks = field(default_factory=Codebooks)
    """The format."""
    moments: Moments = field(default_factory=Moments)
    """How much each input counts."""
    tuning: Tuning = field(default_factory=Tuning)
    """What is trained afterwards."""
    report: Report = field(default_factory=Report)
    """What is measured."""
    source: Path | None = None
    """File that this was read from; not a key of the file."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}: it must lie between 0 and 4294967295")
        check_positive("max_tokens", self.max_tokens)
        if self.data is None and self.needs_data:
            raise ConfigError(
                "there is no [data] table: add one with conversations of the module's task, or write rows = 0 under "
                "[moments] and [report] and steps = 0 under [tuning]"
            )

    @property
    def needs_data(self) -> bool:
        """Whether anything is learned from, or measured on, conversations."""
        return bool(self.moments.rows or self.tuning.steps or self.report.rows)
