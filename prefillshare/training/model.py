"""The models that runs work on: loaded with the attention that shares KV, wrapped with an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prefillshare.codebook.checkpoint import plain_tensors
from prefillshare.codebook.section import codebook_shape
from prefillshare.modules.adapter import LoraShape
from prefillshare.training.attention import use_attention

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_base(directory: Path, dtype: torch.dtype = torch.bfloat16) -> "PreTrainedModel":
    """A model from its directory, on the CPU, with the attention that shares KV; codebook weights are expanded.

    Raises: TrainingError for an architecture whose KV cannot be shared.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if codebook_shape(directory) is None:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
    else:
        model = load_expanded(directory, dtype)
    use_attention(model)
    return model


def load_expanded(directory: Path, dtype: torch.dtype) -> "PreTrainedModel":
    """A model of codebook weights, expanded, with transformers' own attention."""
    # transformers does not know codebook weights: it would leave linear layers random, with a warning.
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config: Any = AutoConfig.from_pretrained(directory)
    del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.load_state_dict(dict(plain_tensors(directory, dtype)), strict=not config.tie_word_embeddings, assign=True)
    model.tie_weights()
    if (directory / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(directory)
    return model


def add_adapter(
    model: "PreTrainedModel", shape: LoraShape, base_name: str, seed: int, *, trains_in_float32: bool = False
) -> "PeftModel":
    """Wrap the model with a fresh LoRA adapter, in the model's own dtype or in float32; only it is trainable."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model.name_or_path = base_name
    config: Any = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        target_modules=list(shape.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config, autocast_adapter_dtype=trains_in_float32)


def load_adapter(model: "PreTrainedModel", directory: Path) -> "PeftModel":
    """Wrap the model with a stored adapter, frozen."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, directory, autocast_adapter_dtype=False)
