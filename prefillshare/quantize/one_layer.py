"""A decoder layer alone, between the hidden states before and behind it: what tuning layer by layer has in memory.

A model of one layer and no final norm, asked with embeddings: masks and positions are transformers' own, as in a pass
of the whole model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefillshare.errors import ModuleError
from prefillshare.quantize.decode_module import only_trained, set_coded_layers
from prefillshare.quantize.source import WeightSource
from prefillshare.training.attention import KvSink, SharedKv, use_attention
from prefillshare.training.layout import Layout


def plain_layer(source: WeightSource, layer: int, dtype: torch.dtype | None = None) -> nn.Module:
    """A layer of full weights, in the type that they are stored in by default; not to be trained."""
    tensors = {_place(name): source.read(name) for name in _all_names(source, layer)}
    return _filled(source.base, {name: tensor.to(dtype or tensor.dtype) for name, tensor in tensors.items()}, {})


def coded_layer(source: WeightSource, module: WeightSource, layer: int) -> nn.Module:
    """A layer of the quantised `module`, made from `source`, in float32; codebooks, scales and norms are trained."""
    others = {_place(name): module.read(name).float() for name in source.other_names(layer)}
    return only_trained(_filled(source.base, others, {"module": module, "groups": source.linear_groups(layer)}))


def stored_name(name: str, layer: int) -> str:
    """The name on disk of a parameter of a model of one layer."""
    return f"model.layers.{layer}.{name.removeprefix('layers.0.')}"


@torch.no_grad()
def run_prefill(model: nn.Module, layout: Layout, hidden: Tensor) -> tuple[Tensor, KvSink]:
    """The base's hidden states [1, T, hidden] behind a layer, and its KV."""
    sink = KvSink()
    if hidden.shape[1] == 0:
        return hidden, sink
    # In a tree, positions are depths and not column numbers.
    positions = layout.prefill_positions if layout.prefill_mask is not None else None
    return _run(model, hidden, positions, layout.prefill_mask, kv_sink=sink), sink


def run_queries(model: nn.Module, layout: Layout, hidden: Tensor, sink: KvSink) -> Tensor:
    """A decode module's hidden states [1, Q, hidden] behind a layer, over the base's KV."""
    assert layout.mask is not None, "a layout with prefill tokens says who sees them"
    if not sink.layers:
        return _run(model, hidden, layout.positions, layout.mask)
    shared = SharedKv(sink, layout.mask, layout.kv_rule)
    states = _run(model, hidden, layout.positions, layout.mask, shared_kv=shared)
    shared.check(1)
    return states


def _run(model: nn.Module, hidden: Tensor, positions: Tensor | None, mask: Tensor | None, **kv: Any) -> Tensor:
    states: Tensor = model(
        inputs_embeds=hidden, position_ids=positions, attention_mask=mask, use_cache=False, **kv
    ).last_hidden_state
    return states


def _filled(directory: Path, tensors: Mapping[str, Tensor], coded: Mapping[str, Any]) -> Any:
    model = _empty(directory)
    if coded:
        set_coded_layers(model, others=tensors, place=_place, **coded)
    model.load_state_dict(tensors, strict=False, assign=True)
    if missing := [name for name, parameter in model.layers.named_parameters() if parameter.is_meta]:
        raise ModuleError(f"{directory} has no tensor {missing[0]} in a layer: download or build the module again")
    return model.requires_grad_(False).eval()


def _empty(directory: Path) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel

    config: Any = AutoConfig.from_pretrained(directory)
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModel.from_config(config, dtype=config.dtype, attn_implementation="sdpa")
    model.norm = nn.Identity()
    use_attention(model)
    return model


def _all_names(source: WeightSource, layer: int) -> list[str]:
    linear = [f"{name}.weight" for names in source.linear_groups(layer) for name in names]
    return [*linear, *source.other_names(layer)]


def _place(name: str) -> str:
    """Where a tensor or a module of some layer is in a model of one layer."""
    _, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"layers.0.{rest}"
