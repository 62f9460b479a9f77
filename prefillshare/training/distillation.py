"""A module learns from the adapter that it goes on from, which makes all KV itself, as it was trained to.

The adapter knows the task; what it knows it does not find in the prefill module's KV. So at every token of an answer it
is asked over its own KV, and the module over shared KV is drawn to what the adapter would say and to its hidden states
behind every layer. An answer's tokens tell little more than that the module was wrong; the states tell each layer what
should have come out of it.

The loss of a token, with weights a, b, c of `config.training.Distillation`, for L layers:

    a * cross entropy of the label + b * KL(adapter || module) + c * mean over layers of |s - t|^2 / |t|^2

with the module's state s and the adapter's t.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefillshare.config.training import Distillation
from prefillshare.training.layout import Layout
from prefillshare.training.objective import TargetOutputs, adapter_named, target_outputs

TEACHER = "start"
"""Name of the second adapter in the PEFT model: the first one as it was."""


def distilled_loss(
    model: nn.Module,
    layout: Layout,
    own_layout: Layout,
    wanted: Distillation,
    *,
    prefill_model: nn.Module | None = None,
) -> Tensor:
    """Weighted sum of the token losses of a layout; divide by the weights that it is a mean over.

    `own_layout` has the same documents laid out for a model that makes all KV itself, and so the same targets in the
    same order. `model` is a PEFT model with the adapter `TEACHER` beside the one that is trained.
    """
    needs_states = wanted.states > 0
    with torch.no_grad(), adapter_named(model, TEACHER):
        teacher = target_outputs(model, own_layout, with_states=needs_states)
    module = target_outputs(model, layout, prefill_model=prefill_model, with_states=needs_states)
    return (_token_losses(module, teacher, wanted) * module.weights).sum()


def _token_losses(module: TargetOutputs, teacher: TargetOutputs, wanted: Distillation) -> Tensor:
    """Shapes: [N]."""
    # In float32: a probability that bfloat16 rounds is off by more than what is left to learn.
    said, taught = module.logits.float(), teacher.logits.float()
    losses = wanted.labels * F.cross_entropy(said, module.labels, reduction="none")
    if wanted.answers:
        divergence = F.kl_div(said.log_softmax(-1), taught.log_softmax(-1), reduction="none", log_target=True)
        losses = losses + wanted.answers * divergence.sum(-1)
    if wanted.states:
        losses = losses + wanted.states * _state_distance(module.states, teacher.states)
    return losses


def _state_distance(states: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
    """Mean over layers of the squared distance, relative to the squared length of what is taught [N]."""
    distances = []
    for state, aim in zip(states, taught, strict=True):
        aim = aim.float()
        distances.append((state.float() - aim).square().sum(-1) / aim.square().sum(-1).clamp_min(1e-12))
    return torch.stack(distances).mean(0)
