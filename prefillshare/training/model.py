"""The models that runs work on: loaded with the attention that shares KV, wrapped with an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prefillshare.modules.adapter import LoraShape
from prefillshare.training.attention import use_attention

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_base(directory: Path, dtype: torch.dtype = torch.bfloat16) -> "PreTrainedModel":
    """A model from its directory, on the CPU, with the attention that shares KV.

    Raises: TrainingError for an architecture whose KV cannot be shared.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
    use_attention(model)
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
