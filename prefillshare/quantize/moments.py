"""How much each input of a linear layer counts: its mean square where the decode module works.

That is over the positions that the module computes itself, x_n and the answer, with the prefill module's KV before
them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from prefillshare.quantize.source import WeightSource
from prefillshare.training.layout import Layout
from prefillshare.training.objective import layout_loss


def input_moments(
    model: nn.Module, prefill_model: nn.Module, source: WeightSource, layouts: Iterable[Layout]
) -> dict[str, Tensor]:
    """Return the mean square of each input [inputs], by the first layer of those that read it.

    Layouts are packed: in a padded one the padding would be measured, too.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def count(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().float().reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, torch.zeros(rows.shape[1])) + rows.pow(2).sum(0)
            counts[name] = counts.get(name, 0) + len(rows)

        return add

    inner: Any = model.get_base_model() if source.adapter is not None else model
    firsts = [names[0] for layer in range(source.num_layers) for names in source.linear_groups(layer)]
    hooks = [inner.get_submodule(name).register_forward_pre_hook(count(name)) for name in firsts]
    try:
        with torch.no_grad():
            for layout in layouts:
                assert layout.inputs.shape[0] == 1, "padding would be measured"
                layout_loss(model, layout, prefill_model=prefill_model)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}
