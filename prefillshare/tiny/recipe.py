"""The recipes of the tiny family: everything that decides what `prefillshare models build` makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prefillshare.modules.adapter import LoraShape
from prefillshare.tiny.language.tasks import TaskName


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Geometry of tiny-base, a Qwen3-architecture model."""

    hidden_size: int = 256
    """Width of the residual stream."""
    num_layers: int = 5
    """Decoder layers."""
    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int = 2
    """Key-value heads."""
    head_dim: int = 64
    """Width of one head."""
    intermediate_size: int = 768
    """Width of the gated feed-forward layer."""
    max_positions: int = 4096
    """Longest sequence that the configuration promises."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One training run."""

    num_tokens: int
    """Tokens of the run, context included, padding not."""
    batch_tokens: int
    """Upper bound of tokens in one step, padding included."""
    learning_rate: float
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Which optimizer changes the matrices."""
    warmup_steps: int = 60
    """Steps of linear warm-up."""
    decay_fraction: float = 0.3
    """Last part of the run, in which the rate falls linearly to zero."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    checkpoint_steps: int = 100
    """Steps between two checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IcarusRecipe:
    """The three tasks as ICaRus modules, whose KV is all tiny-base's; those of the accuracy benchmark's first seed."""

    seed: int = 1
    """Seed of data, order and adapter."""
    num_conversations: Mapping[TaskName, int] = field(
        default_factory=lambda: {"math": 2000, "tool": 3000, "code": 2500}
    )
    """Conversations that a module is trained on, each with 3 to 5 answers, some of them for other tasks."""
    batch: int = 2
    """Conversations per step."""
    learning_rate: float = 4e-3
    """Peak learning rate."""
    warmup_ratio: float = 0.05
    """Part of the run in which the rate rises."""
    beta2: float = 0.98
    """AdamW's decay of the mean squared gradient."""
    rank: int = 32
    """Rank of the adapters; alpha is twice that."""
    max_tokens: int = 2048
    """Longest conversation in tokens; none of them is longer."""
    num_threads: int = 1
    """Threads of torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyRecipe:
    """The whole family."""

    seed: int = 2602
    """Seed of data, initial weights and batch order."""
    vocab_size: int = 1536
    """Upper bound of the vocabulary."""
    num_tokenizer_documents: int = 4000
    """Documents on which the tokenizer is trained."""
    num_threads: int = 2
    """Threads of torch."""
    model: ModelShape = field(default_factory=ModelShape)
    """Geometry of the base."""
    lora: LoraShape = field(default_factory=LoraShape)
    """Shape of the adapters."""
    base: Schedule = field(
        default_factory=lambda: Schedule(
            num_tokens=6_000_000,
            batch_tokens=4096,
            learning_rate=4e-3,
            optimizer="muon",
            warmup_steps=50,
            decay_fraction=0.35,
            weight_decay=0.01,
        )
    )
    """Pretraining."""
    tuning: Schedule = field(
        default_factory=lambda: Schedule(
            num_tokens=1_200_000,
            batch_tokens=6144,
            learning_rate=4e-3,
            warmup_steps=20,
            decay_fraction=0.6,
            weight_decay=0.0,
            checkpoint_steps=50,
        )
    )
    """Fine-tuning of one module; the ordinary rivals get the same data, order, rank and learning rate."""
