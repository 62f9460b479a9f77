"""Attention that takes KV of another module, and hands out its own, without a transformers cache.

Training needs both directions: the prefill module's pass gives its keys and values to a `KvSink`, the decode module's
pass attends to them through `SharedKv`. Both travel as keyword arguments of the model's forward, which transformers
passes on to the attention of every layer. A transformers cache would not do: it grows while it is read, and gradient
checkpointing switches it off. Here the shared KV is a constant input of each layer, so a layer that is computed a
second time in the backward pass sees what it saw the first time.

Source: `AttentionInterface` of transformers; `tests/training/test_layout.py` compares gradients.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefillshare.errors import TrainingError
from prefillshare.modules.manifest import KvRule

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "prefillshare_sdpa"
"""Name of this attention in a model's configuration."""


class KvSink:
    """Collects keys and values, layer by layer.

    Shapes: [B, KV heads, T, head size] per layer, keys after rotation.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def put(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self.layers[layer] = (keys, values)


class SharedKv:
    """KV of the prefill module, and which of it each query of the decode module may see.

    Shapes: mask [B, 1, Q, T + Q], true = visible: T keys of the prefill module, then the queries' own; [B, 1, Q, T]
    under the rule "all-base", where nobody reads the queries' own.
    """

    def __init__(self, sink: KvSink, mask: Tensor, kv_rule: KvRule = "own-answers") -> None:
        self._layers, self._mask, self._kv_rule = sink.layers, mask, kv_rule
        self._bias: Tensor | None = None
        # A set: with gradient checkpointing the backward pass computes a layer, and joins, a second time.
        self.seen: set[int] = set()

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefill module, then, unless all KV is the base's, the given ones."""
        self.seen.add(layer)
        base_keys, base_values = self._layers[layer]
        if self._kv_rule == "all-base":
            return base_keys.to(keys), base_values.to(values)
        # In the order of the mask's columns. The base's keys are rotated already, by their own positions; they may be
        # of another dtype than the decode module's, and carry no gradient.
        return torch.cat((base_keys.to(keys), keys), dim=2), torch.cat((base_values.to(values), values), dim=2)

    def bias(self, num_groups: int, dtype: torch.dtype) -> Tensor:
        """The mask as a summand of the scores [B, 1, groups * Q, keys]; made once for all layers."""
        if self._bias is None or self._bias.dtype != dtype:
            # The lowest finite number and not -inf: a row that sees nothing would give NaN.
            hidden = torch.zeros(self._mask.shape, dtype=dtype, device=self._mask.device)
            hidden.masked_fill_(~self._mask, torch.finfo(dtype).min)
            # The order of `_grouped`: all queries of the group's first head, then all of its second.
            self._bias = hidden.repeat(1, 1, num_groups, 1)
        return self._bias

    def check(self, num_layers: int) -> None:
        """Raises: TrainingError when a layer did not look at the shared KV."""
        if len(self.seen) != num_layers:
            raise TrainingError(
                f"{num_layers - len(self.seen)} of {num_layers} layers did not read the prefill module's KV: "
                "train a decoder-only model with full attention in every layer, such as Qwen3 or Llama"
            )


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, as transformers calls it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    sink, shared = kwargs.pop("kv_sink", None), kwargs.pop("shared_kv", None)
    layer: Any = module.layer_idx
    if sink is not None:
        sink.put(layer, key, value)
    if shared is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    key, value = shared.join(layer, key, value)
    return _grouped(query.to(value), key.to(value), value, shared, kwargs["scaling"]), None


def _grouped(query: Tensor, key: Tensor, value: Tensor, shared: SharedKv, scaling: float) -> Tensor:
    """Query heads of one KV head side by side as queries of it, so that KV is never repeated per query head.

    Shapes: query [B, H, Q, d], key and value [B, KV heads, T + Q or T, d]; returns [B, Q, H, d].
    """
    num_rows, num_heads, num_queries, size = query.shape
    num_groups = num_heads // key.shape[1]
    # Heads of one KV head are neighbours, so that folding and unfolding are views of the same order.
    folded = query.reshape(num_rows, key.shape[1], num_groups * num_queries, size)
    bias = shared.bias(num_groups, value.dtype)
    out = F.scaled_dot_product_attention(folded, key, value, attn_mask=bias, scale=scaling)
    return out.reshape(num_rows, num_heads, num_queries, size).transpose(1, 2).contiguous()


def register_attention() -> str:
    """Make the attention known to transformers; returns its name.

    Effects: adds one name to transformers' tables of attentions and of masks.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    return ATTENTION


def use_attention(model: "PreTrainedModel") -> None:
    """Switch a loaded model to this attention.

    Raises: TrainingError for a model with sliding-window or linear layers, whose KV is not that of every position.
    """
    config: Any = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise TrainingError(
            f"{config.model_type} has {', '.join(sorted(kinds - {'full_attention'}))} layers, whose KV does not cover "
            "the whole prompt: use a base model with full attention in every layer"
        )
    model.set_attn_implementation(register_attention())
