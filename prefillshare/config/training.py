"""What a training file may say: one run of `prefillshare train`.

Paths are relative to the file. docs/training.md shows one with every key.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prefillshare.config.checks import check_optional_positive, check_positive
from prefillshare.errors import ConfigError

Source = Literal["gsm8k", "metamath", "evolinstruct-code", "xlam-function-calling"]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KV_PROJECTIONS = ("k_proj", "v_proj")
"""Those that make keys and values: without effect where all KV is the base's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """The prefill module that the decode module is trained for; it stays as it is."""

    path: Path | None = None
    """Directory of the base; this or `hub`."""
    hub: str | None = None
    """Repository on the Hugging Face hub, such as Qwen/Qwen3-8B; this or `path`."""
    revision: str | None = None
    """Branch, tag or commit of `hub`; main when not given."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.hub is None):
            what = "neither path nor hub" if self.path is None else "both path and hub"
            raise ConfigError(f"the base has {what}: give exactly one of them")
        if self.revision is not None and self.hub is None:
            raise ConfigError(f"the base has revision {self.revision!r} but no hub: remove revision, a path has none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a row hold what: `messages`, or `prompt` and `answer`."""

    messages: str | None = None
    """Column with a chat in the form of the chat API, every assistant turn a target."""
    prompt: str | None = None
    """Column with the user's text."""
    answer: str | None = None
    """Column with the assistant's text."""
    system: str | None = None
    """Column with a system text, empty where a row has none; only beside `prompt`."""
    tools: str | None = None
    """Column with a list of function signatures, empty where a row has none."""

    def __post_init__(self) -> None:
        if self.messages is not None and (self.prompt or self.answer or self.system):
            raise ConfigError("messages stands beside prompt, answer or system: give messages alone, or the others")
        if self.messages is None and (self.prompt is None or self.answer is None):
            raise ConfigError(
                'the mapping is not complete: write messages = "...", or both prompt = "..." and answer = "..."'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Rows to train on: a known source, or a file or hub data set with `[data.columns]`."""

    source: Source | None = None
    """A data set whose columns are known; its rows come from `file`, else `$PREFILLSHARE_DATA/<source>.jsonl`, else the
    hub."""
    file: Path | None = None
    """JSON lines, a JSON array, CSV or Parquet."""
    hub: str | None = None
    """Data set on the Hugging Face hub, or a directory that `datasets` can load."""
    subset: str | None = None
    """Configuration of the hub data set."""
    split: str | None = None
    """Split of the hub data set; train when not given. Slices such as train[:1000] work."""
    revision: str | None = None
    """Branch, tag or commit of the hub data set."""
    columns: Columns | None = None
    """Which columns hold what; needed without `source`."""
    max_rows: int | None = None
    """Take only the first rows."""

    def __post_init__(self) -> None:
        if self.source is None and self.columns is None:
            raise ConfigError(
                'no mapping is given: add [data.columns] with prompt and answer, or source = "gsm8k" for a known set'
            )
        if self.source is not None and self.columns is not None:
            raise ConfigError(f"source {self.source!r} has its own mapping: remove [data.columns], or source")
        if self.source is None and (self.file is None) == (self.hub is None):
            what = "neither file nor hub" if self.file is None else "both file and hub"
            raise ConfigError(f"there is {what}: give exactly one of them")
        if self.source is not None and self.hub is not None:
            raise ConfigError(f"source {self.source!r} knows its hub data set: remove hub, or source")
        if self.file is not None and (self.subset or self.split or self.revision):
            raise ConfigError("file stands beside subset, split or revision: a file has none of them, remove them")
        check_optional_positive("max_rows", self.max_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How many conversations a step sees, and how they lie."""

    max_tokens: int = 1024
    """Longest conversation in tokens; longer ones are counted and left out."""
    size: int = 1
    """Conversations per device and pass."""
    accumulation: int = 16
    """Passes per step of the optimizer."""
    packed: bool = True
    """Put the conversations of a pass into one row, a prompt that several share only once; else pad them."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "size", "accumulation"):
            check_positive(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """AdamW and its learning rate."""

    learning_rate: float
    """Peak learning rate."""
    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int | None = None
    """Stop after this many steps, whatever `epochs` says."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after warm-up."""
    warmup_ratio: float = 0.03
    """Part of the run in which the rate rises."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: float = 0.999
    """AdamW's decay of the mean squared gradient."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "clip_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be more than 0")
        for name in ("warmup_ratio", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must lie between 0 and 1")
        if not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(f"weight_decay is {self.weight_decay}: it must be 0 or more")
        check_optional_positive("max_steps", self.max_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """The adapter of `kind = "lora"`."""

    rank: int = 32
    """Rank of every adapter matrix."""
    alpha: int = 64
    """Scale: the update is multiplied by alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Linear layers that carry an adapter; when not given, all that the objective has a use for."""

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            check_positive(name, getattr(self, name))
        for target in self.targets or ():
            if target not in PROJECTIONS:
                raise ConfigError(
                    f"targets has {target!r}, which the engine cannot serve: choose from {', '.join(PROJECTIONS)}"
                )
        if self.targets == ():
            raise ConfigError("targets is empty: name at least one layer, such as q_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How the run computes and what it leaves."""

    dtype: Literal["bf16", "fp32"] = "bf16"
    """bf16: frozen weights and matrix products in bfloat16, trained weights and optimizer in float32."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass instead of keeping their activations."""
    save_steps: int = 200
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept; the oldest goes first."""
    log_steps: int = 10
    """Steps between two lines of the log."""

    def __post_init__(self) -> None:
        for name in ("save_steps", "keep_checkpoints", "log_steps"):
            check_positive(name, getattr(self, name))
        if self.save_steps % self.log_steps:
            raise ConfigError(
                f"save_steps {self.save_steps} is no multiple of log_steps {self.log_steps}, so a resumed run would "
                "average other steps: make it one"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Rows that are not trained on; their loss is measured before and after training."""

    rows: int = 0
    """The last rows of the data; 0 measures nothing."""
    sharing_ratio: float = 1.0
    """Part of each prompt whose KV is the base's in the measurement; 1 is what is served, 0 shares nothing."""

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ConfigError(f"rows is {self.rows}: it must be 0 or more")
        if not 0 <= self.sharing_ratio <= 1:
            raise ConfigError(f"sharing_ratio is {self.sharing_ratio}: it must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """What the run learns from the adapter that it goes on from, which is asked over KV of its own.

    Each is the weight of one part of an answer token's loss.
    """

    labels: float = 1.0
    """Of the data's answers: cross entropy, as without a teacher."""
    answers: float = 1.0
    """Of what the adapter would say next: Kullback-Leibler divergence from its distribution."""
    states: float = 1.0
    """Of how it comes to say it: squared distance from its hidden states, relative to them, mean over layers."""

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("labels", "answers", "states")}
        for name, weight in weights.items():
            # Not "weight < 0", which is false for nan.
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"{name} is {weight}: it must be 0 or more")
        if not weights["answers"] and not weights["states"]:
            raise ConfigError("answers and states are 0, so nothing is learned from the adapter: remove the table")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training file."""

    name: str
    """Name of the decode module, as its manifest says it."""
    output: Path
    """Directory of the finished module, and under run/ of checkpoints and logs."""
    kind: Literal["lora", "full"]
    """`lora`: an adapter on the base. `full`: all weights of a copy of the base."""
    objective: Literal["cache-conditioned", "icarus", "full-ft"] = "cache-conditioned"
    """`cache-conditioned`: over the base's KV of the prompt. `icarus`: over the base's KV of prompt and answer.
    `full-ft`: ordinary fine-tuning, for comparison."""
    sharing_ratio: tuple[float, ...] | None = None
    """Range of the part of a prompt whose KV is the base's, such as [0.0, 1.0], drawn for each conversation; when not
    given, all of it is."""
    seed: int = 0
    """Seed of the order of rows, of what is drawn, and of the adapter's first weights."""
    start: Path | None = None
    """Directory of an adapter to go on from, which gives the new one its shape; when not given, a fresh one."""
    base: BaseModel
    """The prefill module."""
    data: Data
    """What to train on."""
    batch: Batch = field(default_factory=Batch)
    """What a step sees."""
    optimizer: Optimizer
    """How weights change."""
    lora: Lora | None = None
    """The adapter's shape; only with `kind = "lora"`."""
    distillation: Distillation | None = None
    """What is learned from the adapter that `start` names; when not given, nothing."""
    run: Run = field(default_factory=Run)
    """How the run computes."""
    evaluation: HeldOut = field(default_factory=HeldOut)
    """What is measured beside the training loss."""
    source: Path | None = None
    """File that this was read from; not a key of the file."""

    def __post_init__(self) -> None:
        if self.kind == "full" and self.lora is not None:
            raise ConfigError('[lora] stands beside kind = "full": remove the table, or write kind = "lora"')
        if self.kind == "full" and self.start is not None:
            raise ConfigError('start stands beside kind = "full": it is an adapter, write kind = "lora" or remove it')
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}: it must lie between 0 and 4294967295")
        self._check_sharing_ratio()
        self._check_distillation()
        if self.objective == "icarus":
            self._check_icarus()

    @property
    def adapter(self) -> Lora:
        """Shape of the adapter, given or not."""
        return self.lora or Lora()

    @property
    def targets(self) -> tuple[str, ...]:
        """Layers that the adapter changes, given or not."""
        if self.adapter.targets is not None:
            return self.adapter.targets
        return tuple(name for name in PROJECTIONS if self.objective != "icarus" or name not in KV_PROJECTIONS)

    def _check_sharing_ratio(self) -> None:
        ratio = self.sharing_ratio
        if ratio is None:
            return
        if self.objective != "cache-conditioned":
            raise ConfigError(
                f'sharing_ratio stands beside objective "{self.objective}", which has none: remove it, or train with '
                'objective "cache-conditioned"'
            )
        # What is served is 1: a module that never met it there would answer badly.
        if len(ratio) != 2 or not 0 <= ratio[0] <= 1 or ratio[1] != 1:
            raise ConfigError(
                f"sharing_ratio is {list(ratio)}: write the lowest part of a prompt that is the base's, between 0 and "
                "1, and 1 for what is served, such as [0.0, 1.0]"
            )

    def _check_distillation(self) -> None:
        if self.distillation is None:
            return
        if self.start is None:
            raise ConfigError(
                "[distillation] stands without start: there is no adapter to learn from, name one or remove the table"
            )
        if self.objective != "cache-conditioned":
            raise ConfigError(
                f'[distillation] stands beside objective "{self.objective}": remove the table, or train with objective '
                '"cache-conditioned"'
            )

    def _check_icarus(self) -> None:
        if self.kind == "full":
            raise ConfigError(
                'objective "icarus" stands beside kind = "full": its KV is all made with the base\'s weights, which a '
                'module with full weights does not hold; write kind = "lora"'
            )
        if useless := [target for target in self.targets if target in KV_PROJECTIONS]:
            useful = ", ".join(f'"{target}"' for target in self.targets if target not in KV_PROJECTIONS)
            fix = f"write targets = [{useful}], or leave targets out" if useful else "leave targets out"
            raise ConfigError(
                f'targets has {useless[0]!r}, which has no effect under objective "icarus", where keys and values are '
                f"all the base's: {fix}"
            )
        if self.evaluation.sharing_ratio != 1:
            raise ConfigError(
                f'sharing_ratio is {self.evaluation.sharing_ratio:g} and objective "icarus" has none, since all KV '
                "is the base's: remove sharing_ratio"
            )
