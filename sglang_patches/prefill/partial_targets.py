"""Adapters that change some of the projections that the engine keeps in one matrix.

Query, key and value are one matrix in the engine, and so are gate and up. Every missing partner is added as zeros: it
changes nothing, to the bit. :mod:`sglang_patches.engine.lora_adapter` completes each layer so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_ATTENTION = ("q_proj", "k_proj", "v_proj")
STACKED = {"qkv_proj": _ATTENTION, "gate_up_proj": ("gate_proj", "up_proj")}
_STACK_OF = {part: stack for stack, parts in STACKED.items() for part in parts}
_KEY = re.compile(rf"(?P<layer>.+\.)(?P<part>{'|'.join(_STACK_OF)})(?P<side>\.lora_[AB]\..+)")


def complete(weights: MutableMapping[str, Tensor], stacks: set[str], stack_size: Callable[[], int]) -> None:
    """Add zeros for the missing partners of a layer's projections; `stack_size` is that of query, key and value.

    Shapes: A is (rank, in) and equal for all partners, B is (out, rank).
    """
    for name, weight in list(weights.items()):
        match = _KEY.fullmatch(name)
        if match is None or ".experts." in name or _STACK_OF[match["part"]] not in stacks:
            continue
        for part in STACKED[_STACK_OF[match["part"]]]:
            partner = f"{match['layer']}{part}{match['side']}"
            if partner in weights:
                continue
            rows = weight.shape[0]
            if ".lora_B." in name and part in _ATTENTION:
                rows = _rows(part, match["part"], rows, stack_size())
            weights[partner] = weight.new_zeros(rows, weight.shape[1])


def _rows(part: str, known: str, known_rows: int, total: int) -> int:
    """Rows of one of query, key and value, by those of another and of all three; key and value have as many."""
    key = (total - known_rows) // 2 if known == "q_proj" else known_rows
    return total - 2 * key if part == "q_proj" else key


def stacks_of(base_model: Module) -> set[str]:
    """Which projections the model keeps in one matrix."""
    names = {name.rpartition(".")[2] for name, _ in base_model.named_modules()}
    return STACKED.keys() & names
