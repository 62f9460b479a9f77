"""Small parts of what is computed ahead and pushed: how long a slice is, and what pushes were good for."""

from array import array
from types import SimpleNamespace

import pytest
import torch

from sglang_patches.disaggregation.pushes import PushedRows
from sglang_patches.eager.slices import SLICE_TOKENS, count_slice_tokens, shorten_slice


@pytest.mark.parametrize(
    ("page_size", "chunk", "num_tokens"),
    [
        (1, None, SLICE_TOKENS),
        (16, 64, 64),
        (16, 256, SLICE_TOKENS),
        (1, 8192, 2048),
        (256, 8192, 2048),
        (256, None, 256),
    ],
)
def test_a_slice_is_part_of_a_chunk(page_size: int, chunk: int | None, num_tokens: int) -> None:
    assert count_slice_tokens(page_size, chunk) == num_tokens


@pytest.mark.parametrize("slice_tokens", [0, 4])
def test_a_slice_whose_beginning_is_not_loaded_ends_earlier_and_a_call_does_not(slice_tokens: int) -> None:
    tokens = array("q", range(20))
    req = SimpleNamespace(
        prefillshare=SimpleNamespace(slice_tokens=slice_tokens),
        prefix_indices=torch.arange(3),
        origin_input_ids=tokens,
        full_untruncated_fill_ids=tokens[:],
        logprob_start_len=20,
    )
    shorten_slice(req)  # type: ignore[arg-type]
    end = 7 if slice_tokens else 20
    assert list(req.origin_input_ids) == list(req.full_untruncated_fill_ids) == list(range(end))
    assert req.logprob_start_len == end


def test_what_is_pushed_is_hit_or_wasted_once() -> None:
    pushed = PushedRows(16, torch.device("cpu"))
    pushed.reuse(torch.arange(16))
    pushed.mark(torch.arange(4, 10))
    pushed.hit(torch.arange(0, 6))
    pushed.hit(torch.arange(0, 6))
    pushed.reuse(torch.arange(0, 9))
    pushed.reuse(torch.arange(0, 9))
    assert pushed.as_state() == {
        "pushed_tokens": 6,
        "push_hit_tokens": 2,
        "push_wasted_tokens": 3,
        "dropped_pushes": 0,
    }
