"""Every set of projections that PEFT can train loads, and what an adapter does not change stays as it is."""

from itertools import chain, combinations
from types import SimpleNamespace

import pytest
import torch
from torch import nn

HIDDEN, RANK = 12, 2
SIZES = {"q_proj": 8, "k_proj": 4, "v_proj": 4, "o_proj": HIDDEN, "gate_proj": 10, "up_proj": 10, "down_proj": HIDDEN}
STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
PARENTS = {name: "self_attn" if name[0] in "qkvo" else "mlp" for name in SIZES}
ALL_SETS = list(chain.from_iterable(combinations(SIZES, num) for num in range(1, len(SIZES) + 1)))


class Layer(nn.Module):
    """The modules of a layer as the engine has them."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Identity())


def loaded(names, adapter_class, layers=("qkv_proj", "o_proj", "gate_up_proj", "down_proj")):
    """Weights of an adapter of these projections, as the engine's loader leaves them, and as they were given."""
    config = SimpleNamespace(
        hf_config={"peft_type": "LORA"}, lora_alpha=4, r=RANK, target_modules=list(names), path=None
    )
    base = SimpleNamespace(
        num_hidden_layers=1,
        hidden_size=HIDDEN,
        head_dim=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=10,
    )
    adapter = adapter_class()("math", config, base, None, None, base_model=Layer(*layers))
    given = {}
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(number)
        key = f"base_model.model.model.layers.0.{PARENTS[name]}.{name}"
        given[f"{key}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=generator)
        given[f"{key}.lora_B.weight"] = torch.randn(SIZES[name], RANK, generator=generator)
    adapter.initialize_weights_from_tensors(given)
    return adapter.layers[0].weights, given


def upstreams():
    from sglang.srt.lora.lora import LoRAAdapter

    return LoRAAdapter


def ours():
    from sglang_patches.engine.lora_adapter import LoRAAdapter

    return LoRAAdapter


def stacked(given, names):
    """What must come out: the parts one below the other, zeros where there is none."""
    wanted = {}
    parts_of = {**STACKS, "o_proj": ("o_proj",), "down_proj": ("down_proj",)}
    for stack, parts in parts_of.items():
        if set(parts) & set(names):
            for side in ("A", "B"):
                prefix = f"base_model.model.model.layers.0.{PARENTS[parts[0]]}"
                zeros = {
                    part: (torch.zeros(RANK, HIDDEN) if side == "A" else torch.zeros(SIZES[part], RANK))
                    for part in parts
                }
                found = [given.get(f"{prefix}.{part}.lora_{side}.weight", zeros[part]) for part in parts]
                wanted[f"{prefix}.{stack}.lora_{side}.weight"] = torch.cat(found)
    return wanted


@pytest.mark.parametrize("names", ALL_SETS, ids="-".join)
def test_every_set_of_projections_is_stacked_with_zeros(names) -> None:
    weights, given = loaded(names, ours)
    wanted = stacked(given, names)
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("names", [("q_proj", "o_proj"), ("q_proj",), ("q_proj", "k_proj")])
def test_without_the_patch_a_gap_ends_the_loader(names) -> None:
    with pytest.raises(KeyError, match="v_proj"):
        loaded(names, upstreams)


@pytest.mark.parametrize("names", [("k_proj",), ("v_proj", "o_proj"), ("up_proj", "down_proj")])
def test_without_the_patch_a_part_finds_no_matrix(names) -> None:
    from sglang.srt.lora.utils import get_normalized_target_modules, get_target_module_name

    weights, _ = loaded(names, upstreams)
    with pytest.raises(ValueError, match="Cannot find target module name"):
        [get_target_module_name(name, get_normalized_target_modules(names)) for name in weights]


def test_a_model_that_keeps_them_apart_is_left_alone() -> None:
    weights, given = loaded(("up_proj", "down_proj"), ours, layers=("up_proj", "down_proj"))
    assert weights.keys() == given.keys()
