"""How many steps and how much memory a run will need, before it starts.

Weights, gradients and optimizer states are counted exactly, on a model without storage. Activations follow what
transformers' Llama-like layers keep for the backward pass; `make bench-train` measures them.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefillshare.config.training import Training
from prefillshare.training.finetune.examples import Collator, Examples
from prefillshare.training.layout import Documents, lay_out_ordinary

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will need."""

    num_steps: int
    """Steps of the optimizer on one device."""
    num_parameters: int
    """Parameters of the base."""
    num_trained: int
    """Parameters that are trained."""
    weight_bytes: int
    """The base and what is trained."""
    state_bytes: int
    """Gradients and the optimizer's states."""
    activation_bytes: int
    """What the largest pass keeps for its backward pass, base KV and logits included."""

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.state_bytes + self.activation_bytes

    def lines(self) -> list[str]:
        """The estimate for people."""
        device, has_bytes = device_memory()
        verdict = (
            ""
            if self.total_bytes < has_bytes
            else ': it will not fit; set gradient_checkpointing = true, lower size or max_tokens, or use kind = "lora"'
        )
        return [
            f"model     {self.num_parameters:,} parameters, {self.num_trained:,} of them or beside them trained",
            f"steps     {self.num_steps:,} on one device",
            f"memory    {_gib(self.total_bytes)}: weights {_gib(self.weight_bytes)}, gradients and optimizer "
            f"{_gib(self.state_bytes)}, activations {_gib(self.activation_bytes)} in the largest pass",
            f"device    {device} with {_gib(has_bytes)}{verdict}",
        ]


def device_memory() -> tuple[str, int]:
    """Name and memory in bytes of the device that a run would use."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return properties.name, properties.total_memory
    return "CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def estimate(training: Training, base: Path, examples: Examples) -> Estimate:
    """Estimate a run on its tokenised data."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    num_trained = num_parameters if training.kind == "full" else _adapter_size(training, model)
    frozen = 2 if training.run.dtype == "bf16" else 4
    has_base = training.kind == "lora" or training.objective == "cache-conditioned"
    return Estimate(
        num_steps=_num_steps(training, len(examples)),
        num_parameters=num_parameters,
        num_trained=num_trained,
        # An adapter that is learned from stands beside the one that is trained.
        weight_bytes=(frozen * num_parameters if has_base else 0)
        + 4 * num_trained * (1 if training.distillation is None else 2),
        state_bytes=12 * num_trained,
        activation_bytes=_activations(training, config.get_text_config(), examples, frozen),
    )


def _num_steps(training: Training, num_examples: int) -> int:
    optimizer, batch = training.optimizer, training.batch
    per_epoch = math.ceil(math.ceil(num_examples / batch.size) / batch.accumulation)
    return optimizer.max_steps or math.ceil(optimizer.epochs * per_epoch)


def _adapter_size(training: Training, model: Any) -> int:
    rank = training.adapter.rank
    layers = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in training.targets]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def _activations(training: Training, config: Any, examples: Examples, width: int) -> int:
    """Bytes of the pass with the longest examples, at the lowest sharing ratio."""
    lengths = examples.shard.starts[1:] - examples.shard.starts[:-1]
    longest = np.argsort(lengths)[-training.batch.size :].tolist()
    pairs = [examples.shard.document(index) for index in longest]
    lowest = 1.0 if training.sharing_ratio is None else training.sharing_ratio[0]
    collate = Collator(objective=training.objective, packed=training.batch.packed, sharing_ratio=lowest)
    layout = collate.layout([pairs])
    num_queries, num_prefill = layout.inputs.numel(), layout.prefill_tokens.numel()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, kv = size * config.num_attention_heads, size * config.num_key_value_heads
    # Where all KV is the base's, queries keep none of their own, and the base's is read where it lies; else it is
    # copied into one tensor with theirs.
    own_kv, num_copies = (0, 1) if training.objective == "icarus" else (5 * kv, 2)
    layer = num_queries * (7 * config.hidden_size + 6 * queries + own_kv + 4 * config.intermediate_size)
    shared = 2 * kv * num_prefill
    num_layers = config.num_hidden_layers
    if training.run.gradient_checkpointing:
        kept = num_layers * (num_queries * config.hidden_size + shared) + layer + (num_copies - 1) * shared
    else:
        kept = num_layers * (layer + num_copies * shared)
    num_targets = int((layout.weights > 0).sum())
    taught = 0 if training.distillation is None else _taught_bytes(training, config, pairs, num_targets, width)
    return width * kept + 12 * num_targets * config.vocab_size + taught


def _taught_bytes(training: Training, config: Any, documents: Documents, num_targets: int, width: int) -> int:
    """Bytes of what the adapter that is learned from leaves of its pass, and of the comparison with it."""
    assert training.distillation is not None
    num_tokens = lay_out_ordinary(documents, packed=training.batch.packed).inputs.numel()
    states = (config.num_hidden_layers + 1) * config.hidden_size if training.distillation.states else 0
    # Of each target: states in float32, theirs, ours and the difference; logits, both distributions, their product.
    compared = 12 * config.num_hidden_layers * config.hidden_size if training.distillation.states else 0
    return width * num_tokens * states + num_targets * (compared + 16 * config.vocab_size)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"
