"""Making, loading and saving the models that runs work on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prefillshare.tiny.recipe import LoraShape, ModelShape
from prefillshare.training.attention import register_attention, use_attention

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def new_base(shape: ModelShape, vocab_size: int, end_token: int, pad_token: int, seed: int) -> "PreTrainedModel":
    """A Qwen3-architecture model with random weights, in bfloat16."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_token,
        pad_token_id=pad_token,
        dtype=torch.bfloat16,
    )
    config._attn_implementation = register_attention()
    return Qwen3ForCausalLM(config).to(torch.bfloat16)


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
