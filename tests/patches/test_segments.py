"""The split of an extend batch into base and adapter segments, against a token-by-token count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_patches.prefill.request_state import ALL_BASE_MADE
from sglang_patches.prefill.segments import split_segments

requests = st.lists(
    st.tuples(
        st.sampled_from([None, "math", "tool"]),
        st.integers(0, 40),  # prefix
        st.integers(1, 40),  # extend
        st.integers(0, 80),  # boundary
    ),
    min_size=1,
    max_size=8,
)


def token_by_token(batch):
    """Who computes each token of the batch, straight from the definition of the boundary."""
    return [
        None if position < boundary else lora_id
        for lora_id, prefix, extend, boundary in batch
        for position in range(prefix, prefix + extend)
    ]


@given(requests)
def test_every_token_gets_the_weights_of_its_side_of_the_boundary(batch):
    batch = [(i, p, e, ALL_BASE_MADE if i is None else b) for i, p, e, b in batch]
    ids, lens = split_segments(*map(list, zip(*batch, strict=True)))

    assert [i for i, n in zip(ids, lens, strict=True) for _ in range(n)] == token_by_token(batch)
    assert all(lens)
    assert len(batch) <= len(ids) <= 2 * len(batch)


@pytest.mark.parametrize(
    ("prefix", "extend", "boundary", "expected"),
    [
        pytest.param(0, 10, 9, ([None, "m"], [9, 1]), id="whole prompt"),
        pytest.param(9, 1, 9, (["m"], [1]), id="all but x_n cached"),
        pytest.param(0, 1, 0, (["m"], [1]), id="prompt of one token"),
        pytest.param(0, 4, 9, ([None], [4]), id="first chunk of a long prompt"),
        pytest.param(8, 4, 9, ([None, "m"], [1, 3]), id="retracted after three tokens"),
        pytest.param(12, 1, 9, (["m"], [1]), id="decode step in a mixed batch"),
    ],
)
def test_cases_of_one_request(prefix, extend, boundary, expected):
    assert split_segments(["m"], [prefix], [extend], [boundary]) == expected


def test_lists_of_different_length_are_a_bug():
    with pytest.raises(ValueError, match="zip"):
        split_segments(["m"], [0], [1], [])
