"""Cache-conditioned fine-tuning in both KV rules, and the ordinary objective it is compared with.

A decode module is trained to answer over KV that the frozen prefill module made. For a prompt x_1..x_n with the
answer y_1..y_m, positions 1..n-1 are the prefill module's; x_n and the answer are the decode module's
(`prefillshare.training.layout` draws it).

A conversation holds several answers; each is a segment of its own, and everything before a segment, earlier answers
included, is prompt. So one pass of the prefill module over all conversations gives the KV of every prompt at once, and
one pass of the decode module over all segments side by side gives the loss. A mask keeps them apart: a query of
segment s sees prefill KV of positions before x_n of s, and the queries of s up to itself, nothing else. This is exact,
not an approximation: `tests/training/test_objective.py` compares it with one pass per segment.

An ICaRus module (rule "all-base") reads the prefill module's KV of its own answers as well, its own position included:
there the same two passes serve, the first over the answers, too, and no query sees another. Its keys and values are
never read, so it cannot have an adapter on k_proj or v_proj.

Source: arXiv 2602.12029, section 3; the boundary at x_n follows the serving path, which recomputes the last token.
"all-base": arXiv 2603.13281.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefillshare.errors import TrainingError
from prefillshare.training.attention import ATTENTION, KvSink, SharedKv
from prefillshare.training.batch import Batch
from prefillshare.training.layout import NO_TARGET, Documents, Layout, lay_out, lay_out_all_base

Objective = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOutputs:
    """What a model makes of a layout at each target, one after the other.

    Shapes: N targets of all rows, row by row.
    """

    logits: Tensor
    """[N, vocabulary]."""
    labels: Tensor
    """The target tokens [N]."""
    weights: Tensor
    """Their weights [N], float32."""
    states: tuple[Tensor, ...]
    """Hidden states behind each layer [N, hidden size], the last one normed; empty if nobody wants them."""


def cache_conditioned_loss(model: nn.Module, batch: Batch, *, prefill_model: nn.Module | None = None) -> Tensor:
    """Mean loss of the answers over the prefill module's KV.

    `model` is the decode module. Without `prefill_model`, it must be a PEFT model, and the prefill module is the
    same model with its adapter off.
    """
    layout = lay_out(documents_of(batch), packed=False)
    return layout_loss(model, layout, prefill_model=prefill_model) / layout.weights.sum()


def all_base_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean loss of the answers where all KV, that of the answers included, is the prefill module's.

    `model` is a PEFT model; the prefill module is the same model with its adapter off.
    """
    layout = lay_out_all_base(documents_of(batch), packed=False)
    return layout_loss(model, layout) / layout.weights.sum()


def ordinary_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean loss of the weighted tokens when the model makes all KV itself: full fine-tuning and pretraining."""
    logits = model(input_ids=batch.tokens, use_cache=False).logits
    targets, weights = batch.tokens[:, 1:], batch.weights[:, 1:]
    chosen = weights > 0
    return _summed_loss(logits[:, :-1][chosen], targets[chosen], weights[chosen]) / weights.sum()


def layout_loss(model: nn.Module, layout: Layout, *, prefill_model: nn.Module | None = None) -> Tensor:
    """Weighted sum of the token losses of a layout; divide by the weights that it is a mean over."""
    return _target_loss(_target_logits(model, layout, prefill_model), layout)


@torch.no_grad()
def layout_hits(model: nn.Module, layout: Layout) -> int:
    """How many targets of a layout are what the model would say there; the prefill module is its base."""
    kept = _target_columns(layout)
    labels = layout.labels[:, kept]
    return int((_target_logits(model, layout, None).argmax(dim=-1) == labels)[labels != NO_TARGET].sum())


def target_outputs(
    model: nn.Module, layout: Layout, *, prefill_model: nn.Module | None = None, with_states: bool = False
) -> "TargetOutputs":
    """What the model makes of a layout where it has a target; with its hidden states, if wanted."""
    outputs = _forward(model, layout, prefill_model, output_hidden_states=with_states)
    kept = _target_columns(layout)
    # Both pick row by row, column by column: entry i is the same target in each.
    chosen = layout.labels != NO_TARGET
    return TargetOutputs(
        logits=outputs.logits[chosen[:, kept]],
        labels=layout.labels[chosen],
        weights=layout.weights[chosen],
        # The first are the embeddings, which no adapter changes.
        states=tuple(states[chosen] for states in outputs.hidden_states[1:]) if with_states else (),
    )


def _forward(model: nn.Module, layout: Layout, prefill_model: nn.Module | None, **options: Any) -> Any:
    """The model's outputs in the columns that have a target: logits [B, columns, vocabulary]."""
    if layout.prefill_tokens.shape[1] == 0:
        return _own_outputs(model, layout, **options)
    _check_attention(model, prefill_model or model)
    # The prefill module first, always as a whole: the decode module's pass reads its KV layer by layer and adds none.
    return _outputs_over(
        model, layout, prefill_kv(model if prefill_model is None else prefill_model, layout), **options
    )


def _target_logits(model: nn.Module, layout: Layout, prefill_model: nn.Module | None) -> Tensor:
    logits: Tensor = _forward(model, layout, prefill_model).logits
    return logits


def loss_over(model: nn.Module, layout: Layout, sink: KvSink) -> Tensor:
    """Weighted sum of the token losses of a layout over KV that the prefill module made of it before."""
    return _target_loss(_outputs_over(model, layout, sink).logits, layout)


def _outputs_over(model: nn.Module, layout: Layout, sink: KvSink, **options: Any) -> Any:
    shared = SharedKv(sink, _required_mask(layout), layout.kv_rule)
    outputs = model(
        input_ids=layout.inputs,
        position_ids=layout.positions,
        attention_mask=layout.mask,
        use_cache=False,
        logits_to_keep=_target_columns(layout),
        shared_kv=shared,
        **options,
    )
    # A layer that took no notice of the shared KV would train on half of its context, without a sign of it.
    shared.check(config_of(model).num_hidden_layers)
    return outputs


@torch.no_grad()
def prefill_kv(model: nn.Module, layout: Layout) -> KvSink:
    """KV of a layout's prefill tokens by the prefill module, without gradient."""
    sink = KvSink()
    # In a tree, positions are depths and not column numbers: keys are rotated by them before they reach the sink.
    has_tree = layout.prefill_mask is not None
    with adapter_off(model):
        model(
            input_ids=layout.prefill_tokens,
            position_ids=layout.prefill_positions if has_tree else None,
            attention_mask=layout.prefill_mask,
            use_cache=False,
            logits_to_keep=1,
            kv_sink=sink,
        )
    return sink


@torch.no_grad()
def prefill_cache(model: nn.Module, tokens: Tensor) -> Any:
    """KV of right-padded tokens [B, T] by the prefill module, without gradient, as a transformers cache."""
    with adapter_off(model):
        return model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """A context in which a PEFT model, wrapped or not, computes as its base does; nothing for other models.

    PEFT's own `disable_adapter` also takes the gradient from the adapter's weights for that time. FSDP makes its
    gathered weights at the first use, which is this one, and would keep them without gradient for the whole run.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    is_adapted = hasattr(unwrap(model), "disable_adapter")
    layers = [module for module in model.modules() if is_adapted and isinstance(module, BaseTunerLayer)]
    # Each layer gets back what it had: the caller may have switched some off itself.
    before = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, is_off in zip(layers, before, strict=True):
            layer._disable_adapters = is_off


@contextmanager
def adapter_named(model: nn.Module, name: str) -> Iterator[None]:
    """A context in which another adapter of a PEFT model, wrapped or not, is the one that computes.

    PEFT's own `set_adapter` also decides who is trained, and takes the gradient from the one that was on.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [name]
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of distributed training."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model


def config_of(model: nn.Module) -> Any:
    """The transformers configuration of a model, wrapped or not."""
    return unwrap(model).config


def documents_of(batch: Batch) -> Documents:
    """The documents of a padded batch."""
    lengths = batch.lengths.tolist()
    return [
        (tokens[:length].numpy(), weights[:length].numpy())
        for tokens, weights, length in zip(batch.tokens, batch.weights, lengths, strict=True)
    ]


def _own_outputs(model: nn.Module, layout: Layout, **options: Any) -> Any:
    return model(
        input_ids=layout.inputs,
        position_ids=None if layout.mask is None else layout.positions,
        attention_mask=layout.mask,
        use_cache=False,
        logits_to_keep=_target_columns(layout),
        **options,
    )


def _target_columns(layout: Layout) -> Tensor:
    """Columns in which some row has a target: only there are logits wanted.

    The model keeps the same columns of all rows, so other rows may have nothing to predict in some of them.
    """
    return (layout.labels != NO_TARGET).any(dim=0).nonzero().flatten()


def _target_loss(logits: Tensor, layout: Layout) -> Tensor:
    kept = _target_columns(layout)
    labels, weights = layout.labels[:, kept], layout.weights[:, kept]
    chosen = labels != NO_TARGET
    return _summed_loss(logits[chosen], labels[chosen], weights[chosen])


def _summed_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the token losses, computed in float32 at least."""
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def _check_attention(*models: nn.Module) -> None:
    for model in models:
        if (found := config_of(model)._attn_implementation) != ATTENTION:
            raise TrainingError(
                f"the model attends with {found!r}, which cannot take the prefill module's KV: load it with "
                "prefillshare.training.model.load_base"
            )


def _required_mask(layout: Layout) -> Tensor:
    assert layout.mask is not None, "a layout with prefill tokens says who sees them"
    return layout.mask
