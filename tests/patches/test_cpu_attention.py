"""The CPU platform's attention against a computation in float64, and against upstream."""

from typing import Any

import pytest
import torch
from sglang.srt.layers.attention import torch_native_backend
from torch import Tensor

from sglang_patches.cpu import attention, block_attention
from sglang_patches.cpu.computation import attend_in_place, attend_new_in_place, attend_together

SIZE, POOL, LONGEST = 16, 600, 260
HEADS = ((4, 4), (4, 2), (8, 1))
LENGTHS = (
    *([lengths] for lengths in ((0, 1), (0, 33), (10, 33), (40, 1), (40, 7), (40, 17), (62, 3), (190, 70), (0, 200))),
    [(0, 9), (31, 5), (64, 32), (95, 1)],
)
"""Batches of sequences as (tokens whose KV is cached, new tokens)."""


class Batch:
    """Random queries and KV of some sequences whose slots lie scattered in the pool."""

    def __init__(
        self, heads: tuple[int, int], lengths: list[tuple[int, int]], dtype: torch.dtype, size: int = SIZE
    ) -> None:
        torch.manual_seed(0)
        num_heads, num_kv_heads = heads
        self.lengths = lengths
        self.keys = torch.randn(POOL, num_kv_heads, size, dtype=dtype)
        self.values = torch.randn(POOL, num_kv_heads, size, dtype=dtype)
        self.query = torch.randn(sum(new for _, new in lengths), num_heads, size, dtype=dtype)
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


def _attention(name: str, module: Any) -> Any:
    """A method of a backend, ours or upstream's, whose constructor would want a model."""
    return getattr(object.__new__(module.TorchNativeAttnBackend), name)


EXTEND, DECODE = "_run_sdpa_forward_extend", "_run_sdpa_forward_decode"


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


@pytest.mark.parametrize("name", [EXTEND, DECODE])
@pytest.mark.parametrize("size", [8, 24, 64, 96])
def test_heads_of_any_size_attend(name: str, size: int) -> None:
    """Those that do not fill vectors without the compiled loops."""
    lengths = [(1, 1), (60, 1), (95, 1)] if name == DECODE else [(0, 9), (31, 5), (95, 1)]
    batch = Batch((8, 2), lengths, torch.float32, size)
    assert (batch.run(_attention(name, attention)) - batch.expected()).abs().max() < 1e-5


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


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (12, 4), (8, 1)])
def test_a_row_attends_alike_to_the_bit_beside_its_second_row(heads: tuple[int, int]) -> None:
    batch = Batch(heads, [(60, 1), (93, 1)] * 2, torch.float32, 64)
    sequences = (batch.slots, batch.rows[:2], torch.tensor([61, 94]))
    outputs = []
    for second in (torch.tensor([-1, -1]), torch.tensor([2, 3])):
        output = torch.empty_like(batch.query)
        caches = (batch.keys, batch.values)
        outputs.append(attend_in_place(batch.query, *caches, *sequences, second, 0.3, output)[:2])
    assert outputs[0].equal(outputs[1])


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


def _fail(*given: Any) -> Tensor:
    raise AssertionError("another way was gone")
