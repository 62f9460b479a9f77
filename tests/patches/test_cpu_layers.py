"""The CPU platform's norm, rotation and linear layers against a computation in float64, and against upstream."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from sglang.srt.layers.rotary_embedding.utils import apply_rotary_emb
from torch import Tensor

from sglang_patches.cpu import computation, linear, operators

SIZE, LONGEST = 16, 260


def _original(cls: Any, name: str) -> Any:
    function = getattr(cls, name)
    return getattr(function, "__wrapped__", function)


NORM = RMSNorm.forward_native
ROTATION = _original(RotaryEmbedding, "forward_native")


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("num_tokens", [1, 5, 300])
@pytest.mark.parametrize("has_residual", [False, True])
def test_a_norm_equals_upstream(num_tokens: int, has_residual: bool) -> None:
    torch.manual_seed(0)
    norm = _norm()
    x, residual = torch.randn(num_tokens, 64), torch.randn(num_tokens, 64)
    given = (x, residual) if has_residual else (x,)
    found, expected = operators.normalize(norm, *given), NORM(norm, *given)
    for tensor, other in zip(found, expected, strict=True) if has_residual else ((found, expected),):
        torch.testing.assert_close(tensor, other, rtol=1e-5, atol=1e-6)


def test_a_norm_of_other_dtype_goes_upstream() -> None:
    norm, x = _norm(), torch.randn(3, 64).bfloat16()
    assert torch.equal(operators.normalize(norm, x), NORM(norm, x))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("positions", [[7], [0, 1, 2, 3], [95, 3, 3]])
@pytest.mark.parametrize("is_neox", [True, False])
@pytest.mark.parametrize("rotary_size", [SIZE, SIZE // 2])
def test_a_rotation_equals_upstream(positions: list[int], is_neox: bool, rotary_size: int) -> None:
    torch.manual_seed(0)
    angles = torch.outer(torch.arange(LONGEST), 10.0 ** -torch.arange(rotary_size // 2))
    rope: Any = SimpleNamespace(
        is_neox_style=is_neox,
        rotary_dim=rotary_size,
        head_size=SIZE,
        cos_sin_cache=torch.cat((angles.cos(), angles.sin()), dim=-1),
        _apply_rotary_emb_wrapped=apply_rotary_emb,
    )
    at = torch.tensor(positions)
    query, key = torch.randn(len(at), 4 * SIZE), torch.randn(len(at), 2 * SIZE)
    found = operators.wrap_rotary(ROTATION)(rope, at, query.clone(), key.clone())
    for tensor, other in zip(found, ROTATION(rope, at, query, key), strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=2e-6)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("size_in", "size_out"), [(768, 2048), (64, 192), (1, 3)])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 8, 9, 33, 49, 70])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_linear_layer_equals_torch(size_in: int, size_out: int, num_rows: int, *, has_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(size_out, size_in), torch.randn(size_out) if has_bias else None
    layer = _loaded_layer(weight)
    x = torch.randn(num_rows, size_in)
    found = linear.wrap_apply(_fail)(None, layer, x, bias)
    assert found.is_contiguous()
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double() if has_bias else None)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size_in", "size_out"), [(768, 200), (100, 330), (77, 43), (13, 7)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows", [2, 3, 7, 8, 11, 13, 17, 24, 26, 33, 48])
def test_a_row_is_the_same_to_the_bit_beside_others(
    size_in: int, size_out: int, num_rows: int, *, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(computation, "multiply_by_onednn", _fail)
    layer, bias = _loaded_layer(torch.randn(size_out, size_in)), torch.randn(size_out) if has_bias else None
    x = torch.randn(num_rows, size_in)
    together, *each = (linear.wrap_apply(_fail)(None, layer, rows, bias) for rows in (x, *x.split(1)))
    assert together.equal(torch.cat(each))


def test_a_weight_that_lies_otherwise_is_for_onednn() -> None:
    layer, x = torch.nn.Module(), torch.randn(2, 40)
    layer.weight = torch.nn.Parameter(torch.randn(30, 40), requires_grad=False)
    found = linear.wrap_apply(_fail)(None, layer, x, None)
    torch.testing.assert_close(found, x @ layer.weight.T, rtol=1e-4, atol=1e-4)


def test_a_loaded_weight_lies_by_inputs_and_can_be_loaded_again() -> None:
    weight = torch.randn(6, 4)
    layer = _loaded_layer(weight)
    assert layer.weight.equal(weight)
    assert layer.weight.stride() == (1, 6)
    layer.weight.copy_(weight + 1)
    linear.wrap_process_weights(UnquantizedLinearMethod.process_weights_after_loading)(None, layer)
    assert layer.weight.equal(weight + 1)
    assert layer.weight.stride() == (1, 6)


def test_other_types_of_linear_layers_are_upstreams() -> None:
    weight, x = torch.randn(6, 4).bfloat16(), torch.randn(2, 4).bfloat16()
    layer = _loaded_layer(weight)
    assert layer.weight.is_contiguous()
    found = linear.wrap_apply(UnquantizedLinearMethod.apply)(UnquantizedLinearMethod(), layer, x)
    assert found.equal(torch.nn.functional.linear(x, weight))


def _loaded_layer(weight: Tensor) -> Any:
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    linear.wrap_process_weights(UnquantizedLinearMethod.process_weights_after_loading)(None, layer)
    return layer


def _fail(*given: Any) -> Tensor:
    raise AssertionError("upstream was asked")


def _norm() -> Any:
    norm = SimpleNamespace(
        weight=torch.rand(64) + 0.5,
        variance_epsilon=1e-6,
        hidden_size=64,
        variance_size_override=None,
        override_orig_dtype=None,
        fp32_residual=False,
        cast_x_before_out_mul=False,
    )
    norm.forward_native = partial(NORM, norm)
    return norm
