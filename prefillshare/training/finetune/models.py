"""The two modules of a run: the frozen base, and the decode module that is trained.

`lora`: one copy of the base's weights in memory; the prefill module is the model with its adapter off. `full`: a
trainable copy in float32 beside the frozen base.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from prefillshare.config import PrefillModule
from prefillshare.config.training import BaseModel, Training
from prefillshare.errors import TrainingError
from prefillshare.modules.adapter import LoraShape
from prefillshare.modules.codebook_rule import refuse_as_base
from prefillshare.modules.fingerprint import geometry, tokenizer_sha256, weight_files
from prefillshare.modules.locate import locate
from prefillshare.training.data.render import served_tokenizer
from prefillshare.training.finetune.start import add_teacher, load_start
from prefillshare.training.model import add_adapter, load_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """What a run works on."""

    decode: nn.Module
    """The model that is trained."""
    prefill: nn.Module | None
    """The frozen base; None when it is `decode` with its adapter off, or nobody needs it."""


def locate_base(base: BaseModel, use: str = "trained from") -> Path:
    """Directory of the base; `use` says what it cannot be where it has codebook weights.

    Effects: may download from the hub.
    Raises: ModuleError when it is no complete checkpoint with a tokenizer.
    """
    path = locate(PrefillModule(name="base", path=base.path, hub=base.hub, revision=base.revision))
    geometry(path)
    weight_files(path)
    tokenizer_sha256(path)
    refuse_as_base(path, base.hub or path.name, use)
    return path


def best_run_dtype() -> Literal["bf16", "fp32"]:
    """Type of products for who does not choose one: without a GPU, bfloat16 is slower than float32."""
    return "bf16" if torch.cuda.is_available() else "fp32"


def load_tokenizer(base: Path) -> "PreTrainedTokenizerBase":
    """The base's tokenizer, fit to make chats.

    Raises: TrainingError when it has no chat template or end token, or more tokens than the base has embeddings.
    """
    from transformers import AutoConfig

    tokenizer: Any = served_tokenizer(base)
    if not tokenizer.chat_template:
        raise TrainingError(
            f"{base} has no chat template: use the instruct version of the base, or put chat_template.jinja beside its "
            "tokenizer"
        )
    if tokenizer.eos_token_id is None:
        raise TrainingError(f"the tokenizer in {base} has no eos_token: add it to tokenizer_config.json")
    num_embeddings = AutoConfig.from_pretrained(base).get_text_config().vocab_size
    if len(tokenizer) > num_embeddings:
        raise TrainingError(
            f"the tokenizer in {base} has {len(tokenizer)} tokens and the model has {num_embeddings} embeddings: "
            "put the model's own tokenizer there"
        )
    return tokenizer


def load_modules(training: Training, base: Path) -> Modules:
    """Load what the run trains, and the frozen base where it is a copy of its own.

    Effects: seeds torch for the adapter's first weights.
    """
    frozen_dtype = torch.bfloat16 if training.run.dtype == "bf16" else torch.float32
    if training.kind == "lora":
        lora, name = training.adapter, training.base.hub or base.name
        if training.start is not None:
            start = load_start(load_base(base, frozen_dtype), training.start, name)
            if training.distillation is not None:
                add_teacher(start, training.start, name)
            return Modules(decode=start, prefill=None)
        shape = LoraShape(rank=lora.rank, alpha=lora.alpha, targets=training.targets)
        adapted: nn.Module = add_adapter(
            load_base(base, frozen_dtype), shape, name, training.seed, trains_in_float32=True
        )
        return Modules(decode=adapted, prefill=None)
    prefill = load_base(base, frozen_dtype).requires_grad_(False).eval() if _needs_base(training) else None
    return Modules(decode=load_base(base, torch.float32), prefill=prefill)


def _needs_base(training: Training) -> bool:
    is_measured = training.evaluation.rows > 0 and training.evaluation.sharing_ratio > 0
    return training.objective == "cache-conditioned" or is_measured
