"""The prefill module of the family before its training."""

from typing import TYPE_CHECKING

import torch

from prefillshare.tiny.recipe import ModelShape
from prefillshare.training.attention import register_attention

if TYPE_CHECKING:
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
