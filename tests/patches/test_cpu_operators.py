"""The CPU platform's attention, norm, rotation and LoRA against a computation in float64, and against upstream."""

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.attention import torch_native_backend
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from sglang.srt.layers.rotary_embedding.utils import apply_rotary_emb
from sglang.srt.lora.backend import torch_backend
from torch import Tensor

from sglang_patches.cpu import adapters, attention, block_attention, computation, linear, operators
from sglang_patches.cpu.computation import attend_in_place, attend_new_in_place, attend_together, group_by_adapter

SIZE, POOL, LONGEST = 16, 600, 260
HEADS = ((4, 4), (4, 2), (8, 1))
LENGTHS = (
    *([lengths] for lengths in ((0, 1), (0, 33), (10, 33), (40, 1), (40, 7), (40, 17), (62, 3), (190, 70), (0, 200))),
    [(0, 9), (31, 5), (64, 32), (95, 1)],
)
"""Batches of sequences as (tokens whose KV is cached, new tokens)."""


class Batch:
    """Random queries and KV of some sequences whose slots lie scattered in the pool."""

    def __init__(self, heads: tuple[int, int], lengths: list[tuple[int, int]], dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        num_heads, num_kv_heads = heads
        self.lengths = lengths
        self.keys = torch.randn(POOL, num_kv_heads, SIZE, dtype=dtype)
        self.values = torch.randn(POOL, num_kv_heads, SIZE, dtype=dtype)
        self.query = torch.randn(sum(new for _, new in lengths), num_heads, SIZE, dtype=dtype)
        self.slots = torch.zeros(len(lengths) + 2, LONGEST, dtype=torch.int32)
        self.rows = torch.arange(len(lengths)).flip(0) + 1
        order = torch.randperm(POOL)
        for row, (cached, new) in zip(self.rows.tolist(), lengths, strict=True):
            self.slots[row, : cached + new] = order[: cached + new]
            order = order[cached + new :]

    def run(self, function: Any, **options: Any) -> Tensor:
        """What an attention of the backend writes for this batch."""
        output = torch.full_like(self.query, torch.nan)
        cached, new = (torch.tensor(column) for column in zip(*self.lengths, strict=True))
        pool = (self.query, output, self.keys, self.values, self.slots, self.rows, cached + new)
        is_decode = "decode" in function.__name__
        extra = () if is_decode else (cached, new)
        function(*pool, *extra, scaling=0.3, enable_gqa=True, causal=not is_decode, **options)
        return output

    def expected(self) -> Tensor:
        """Causal attention, token by token, in float64."""
        out, at = [], 0
        for row, (cached, new) in zip(self.rows.tolist(), self.lengths, strict=True):
            for position in range(cached, cached + new):
                out.append(self._one(self.query[at], self.slots[row, : position + 1].long()))
                at += 1
        return torch.stack(out)

    def _one(self, query: Tensor, slots: Tensor) -> Tensor:
        groups = query.shape[0] // self.keys.shape[1]
        keys = self.keys[slots].double().repeat_interleave(groups, dim=1)
        values = self.values[slots].double().repeat_interleave(groups, dim=1)
        scores = torch.einsum("hd,lhd->hl", query.double(), keys) * 0.3
        return torch.einsum("hl,lhd->hd", scores.softmax(dim=-1), values)


def _original(cls: Any, name: str) -> Any:
    function = getattr(cls, name)
    return getattr(function, "__wrapped__", function)


def _attention(name: str, module: Any) -> Any:
    """A method of a backend, ours or upstream's, whose constructor would want a model."""
    return getattr(object.__new__(module.TorchNativeAttnBackend), name)


@pytest.fixture(params=["loops", "operators"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread and with more."""
    if request.param == "operators":
        monkeypatch.setattr(computation, "can_loop", lambda *tensors: False)
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


EXTEND, DECODE = "_run_sdpa_forward_extend", "_run_sdpa_forward_decode"
NORM = RMSNorm.forward_native
ROTATION = _original(RotaryEmbedding, "forward_native")


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_new_tokens_attend_to_all_before_them(heads: tuple[int, int], lengths: list[tuple[int, int]]) -> None:
    batch = Batch(heads, lengths, torch.float32)
    assert (batch.run(_attention(EXTEND, attention)) - batch.expected()).abs().max() < 1e-5


def test_new_tokens_attend_alike_whoever_is_beside_them() -> None:
    """To the bit; a token that is alone attends as in a decode step."""
    batch = Batch((4, 2), [(95, 1), (31, 5), (64, 32), (150, 40)], torch.float32)
    together = batch.run(_attention(EXTEND, attention))
    rows, lengths, query, at = batch.rows, batch.lengths, batch.query, 0
    for number, (_, new) in enumerate(lengths):
        batch.rows, batch.lengths = rows[number : number + 1], lengths[number : number + 1]
        batch.query = query[at : at + new]
        name = DECODE if new == 1 else EXTEND
        assert torch.equal(together[at : at + new], batch.run(_attention(name, attention)))
        at += new


@pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0])
def test_new_tokens_have_their_shares_of_scores_of_any_size(scale: float) -> None:
    """Equal ones, and those that leave all of it to one token, which may come at last.

    Scores of hundreds are right to 1e-5, and shares to as much of themselves.
    """
    batch = Batch((4, 2), [(150, 70)], torch.float32)
    rows, lengths = batch.rows, torch.tensor([220])
    sequences, output = (batch.slots, rows, lengths, torch.tensor([70])), torch.empty_like(batch.query)
    found = attend_new_in_place(batch.query, batch.keys, batch.values, *sequences, scale, output)
    expected = [
        attend_together(query[None].double(), batch.keys.double(), batch.values.double(), slots, scale)
        for query, slots in ((query, batch.slots[rows[0], : 151 + number]) for number, query in enumerate(batch.query))
    ]
    torch.testing.assert_close(found.double(), torch.cat(expected), rtol=1e-3, atol=1e-4)


def test_what_is_no_number_is_seen_by_those_who_read_it() -> None:
    batch = Batch((4, 2), [(150, 70)], torch.float32)
    batch.keys[batch.slots[batch.rows[0], 180].long()] = torch.nan
    is_number = batch.run(_attention(EXTEND, attention)).isfinite()
    assert is_number[:30].all()
    assert not is_number[30:].any()


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_blocks_of_new_tokens_join(
    heads: tuple[int, int], lengths: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MOST_THREADS", 0)
    monkeypatch.setattr(attention, "MIN_NEW", 1)
    monkeypatch.setattr(block_attention, "_BLOCK", 4)
    batch = Batch(heads, lengths, torch.float32)
    assert (batch.run(_attention(EXTEND, attention)) - batch.expected()).abs().max() < 1e-5


@pytest.mark.parametrize("heads", HEADS)
def test_new_tokens_without_onednn(heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MOST_THREADS", 0)
    monkeypatch.setattr(attention, "is_for_onednn", lambda tensor: False)
    batch = Batch(heads, [(0, 33), (10, 33), (40, 17)], torch.float32)
    assert (batch.run(_attention(EXTEND, attention)) - batch.expected()).abs().max() < 1e-5


@pytest.mark.parametrize("heads", HEADS)
def test_a_decode_step_attends_to_all_before_it(heads: tuple[int, int]) -> None:
    batch = Batch(heads, [(1, 1), (60, 1), (95, 1)], torch.float32)
    assert (batch.run(_attention(DECODE, attention)) - batch.expected()).abs().max() < 1e-5


@pytest.mark.parametrize("heads", HEADS)
def test_a_decode_step_of_many_threads_gathers_kv(heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attend_in_place", _fail)
    monkeypatch.setattr(attention, "MOST_THREADS", 0)
    batch = Batch(heads, [(1, 1), (60, 1), (95, 1)], torch.float32)
    assert (batch.run(_attention(DECODE, attention)) - batch.expected()).abs().max() < 1e-5


@pytest.mark.parametrize("heads", HEADS)
def test_second_rows_attend_in_place_as_rows_of_their_own(heads: tuple[int, int]) -> None:
    batch = Batch(heads, [(1, 1), (60, 1), (93, 1)] * 2, torch.float32)
    requests, again = slice(3), [1, 2]
    batch.query = batch.query[:5]
    batch.lengths = [*batch.lengths[requests], *(batch.lengths[number] for number in again)]
    rows, lengths = batch.rows[requests], torch.tensor([cached + new for cached, new in batch.lengths[requests]])
    batch.rows = torch.cat((rows, rows[again]))
    sequences, second = (batch.slots, rows, lengths), torch.tensor([-1, 3, 4])
    output = torch.full_like(batch.query, torch.nan)
    found = attend_in_place(batch.query, batch.keys, batch.values, *sequences, second, 0.3, output)
    assert (found - batch.expected()).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0])
def test_scores_of_any_size_have_their_shares(scale: float) -> None:
    """Equal ones, and those that leave all of it to one token."""
    batch = Batch((4, 2), [(95, 1)], torch.float32)
    slots, lengths = batch.slots[batch.rows[0], :96], torch.tensor([96])
    sequences, second = (batch.slots, batch.rows, lengths), torch.tensor([-1])
    output = torch.empty_like(batch.query)
    found = attend_in_place(batch.query, batch.keys, batch.values, *sequences, second, scale, output)
    expected = attend_together(batch.query.double(), batch.keys.double(), batch.values.double(), slots, scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", HEADS)
def test_two_queries_of_a_position_attend_as_each_alone(heads: tuple[int, int]) -> None:
    batch = Batch(heads, [(0, 1), (60, 1)], torch.float32)
    batch.slots[batch.rows[0]] = batch.slots[batch.rows[1]]
    batch.lengths = [(60, 1), (60, 1)]
    slots = batch.slots[batch.rows[1], :61]
    found = attend_together(batch.query, batch.keys, batch.values, slots, 0.3)
    assert (found - batch.expected()).abs().max() < 1e-5


@pytest.mark.parametrize("options", [{"sliding_window_size": 8}, {"encoder_lens": torch.tensor([3, 5])}])
@pytest.mark.parametrize("name", [EXTEND, DECODE])
def test_windows_and_encoders_go_upstream(name: str, options: dict[str, Any]) -> None:
    batch = Batch((4, 2), [(20, 1), (31, 1)], torch.float32)
    found, expected = (batch.run(_attention(name, module), **options) for module in (attention, torch_native_backend))
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("_either_way")
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


@pytest.mark.usefixtures("_either_way")
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


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize(("size_in", "size_out"), [(768, 2048), (64, 192), (1, 3)])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 8, 9, 70])
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


@pytest.mark.parametrize(("size_in", "size_out"), [(768, 200), (77, 43), (13, 7)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows", [2, 3, 4, 7, 8])
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


BATCHES = ([(1, 3)], [(0, 5)], [(0, 2), (1, 1), (0, 7), (1, 1)], [(1, 1), (2, 1), (1, 1), (3, 4), (1, 2)], [(1, 1)] * 3)
"""LoRA batches as segments (slot, tokens); slot 0 is the base and has rank 0."""
RANKS, SCALINGS = (0, 4, 8, 4), (0.0, 2.0, 0.5, 1.0)


def _lora_batch(segments: list[tuple[int, int]]) -> Any:
    slots, lengths = (torch.tensor(column) for column in zip(*segments, strict=True))
    return SimpleNamespace(
        use_cuda_graph=False,
        weight_indices_cpu=slots,
        seg_lens_cpu=lengths,
        lora_ranks_cpu=torch.tensor(RANKS),
        scalings_cpu=torch.tensor(SCALINGS),
    )


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("offsets", [[0, 24], [0, 16, 24, 32]])
@pytest.mark.parametrize("segments", BATCHES)
@pytest.mark.parametrize("has_base", [True, False])
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 0.03, 0.5)])
def test_products_per_adapter_equal_those_per_segment(
    segments: list[tuple[int, int]], offsets: list[int], has_base: bool, dtype: torch.dtype, rtol: float, atol: float
) -> None:
    torch.manual_seed(0)
    num_tokens, num_slices = sum(length for _, length in segments) + 1, len(offsets) - 1
    x = torch.randn(num_tokens, 12).to(dtype)
    weights_a = torch.randn(len(RANKS), num_slices * max(RANKS), 12).to(dtype)
    weights_b = torch.randn(len(RANKS), offsets[-1], max(RANKS)).to(dtype)
    base = torch.randn(num_tokens, offsets[-1]).to(dtype) if has_base else None

    def products(backend: Any) -> list[Tensor]:
        backend.batch_info = _lora_batch(segments)
        shrunk = backend.run_lora_a_sgemm(x, weights_a, num_slices)
        at = torch.tensor(offsets)
        outs = [shrunk, backend.run_lora_b_sgemm(shrunk, weights_b, at, None if base is None else base.clone())]
        given = (x, weights_a, weights_b)
        outs.append(
            backend.run_gate_up_lora(*given, output_offset_cpu=at, base_output=None if base is None else base.clone())
        )
        outs.append(
            backend.run_qkv_lora(
                *given, at, at, offsets[-1], None if base is None else base.clone(), n_slices=num_slices
            )
        )
        return outs

    found = products(_lora_backend(adapters))
    for product, expected in zip(found, products(_lora_backend(torch_backend)), strict=True):
        torch.testing.assert_close(product, expected, rtol=rtol, atol=atol)


def _lora_backend(module: Any) -> Any:
    """The backend of a module, ours or upstream's."""
    return module.TorchNativeLoRABackend(len(RANKS), torch.device("cpu"))


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("rank", [8, 16, 24, 32])
@pytest.mark.parametrize("num_rows", [1, 3, 20])
def test_an_adapter_of_any_rank_adds_its_product(rank: int, num_rows: int) -> None:
    """Columns that fill vectors and those that are left over; those beyond the rank are nobody's."""
    torch.manual_seed(0)
    offsets, taken = [0, 40, 72, 79], [2, *range(4, 3 + num_rows)]
    weights, base = torch.randn(2, 79, 32), torch.randn(30, 79)
    x = torch.randn(30, 3 * 32)
    groups = group_by_adapter([0, 1, 0, 1], [2, 1, 1, num_rows - 1], [0, rank], [0.0, 1.0])
    expected = base.double()
    for part, (start, end) in enumerate(itertools.pairwise(offsets)):
        given = x[taken, part * rank : (part + 1) * rank].double()
        expected[taken, start:end] += given @ weights[1, start:end, :rank].double().T
    found = computation.lora_b(x, weights, groups, offsets, base)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_adapters_are_grouped_anew_for_each_batch() -> None:
    backend = _lora_backend(adapters)
    x, weights = torch.randn(3, 12), torch.randn(len(RANKS), max(RANKS), 12)
    products = []
    for slot in (1, 2, 1):
        backend.batch_info = _lora_batch([(slot, 3)])
        products.append(backend.run_lora_a_sgemm(x, weights))
    assert torch.equal(products[0], products[2])
    assert not torch.equal(products[0], products[1])


def test_an_adapter_is_multiplied_once_however_many_segments_it_has() -> None:
    groups = group_by_adapter([1, 0, 2, 1, 3], [1, 6, 2, 3, 0], RANKS, SCALINGS)
    assert [(group.slot, group.rank, group.scaling) for group in groups] == [(1, 4, 2.0), (2, 8, 0.5)]
    together, apart = groups[1].rows, groups[0].rows
    assert together == slice(7, 9)
    assert isinstance(apart, Tensor)
    assert apart.tolist() == [0, 9, 10, 11]
