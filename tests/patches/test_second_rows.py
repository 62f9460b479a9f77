"""Second rows of a pass: who has one, what it reads, and that the logits take it in the place of its own token."""

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode

from sglang_patches.icarus.modules import PairedModules, reads_base_kv_only
from sglang_patches.icarus.requests import paired_requests, rows_of_decode
from sglang_patches.icarus.rows import add_second_rows, keep_one_state_per_request
from tests.support.random_models import make_adapter, make_base


def request(*, paired=True, prompt=10, output=0, max_new_tokens=8, return_logprob=False):
    return SimpleNamespace(
        prefillshare=SimpleNamespace(is_paired=paired),
        origin_input_ids=[0] * prompt,
        output_ids=[0] * output,
        sampling_params=SimpleNamespace(max_new_tokens=max_new_tokens),
        return_logprob=return_logprob,
    )


@pytest.mark.parametrize(
    ("req", "prefix", "extend", "has_one"),
    [
        pytest.param(request(), 0, 10, True, id="whole prompt"),
        pytest.param(request(), 9, 1, True, id="all but x_n cached"),
        pytest.param(request(), 0, 4, False, id="first chunk"),
        pytest.param(request(), 4, 6, True, id="last chunk"),
        pytest.param(request(output=3), 0, 10, False, id="retracted: a chunk that ends with the prompt"),
        pytest.param(request(output=3), 10, 3, True, id="retracted: the chunk with its last token"),
        pytest.param(request(output=3), 12, 1, True, id="decode step in a mixed batch"),
        pytest.param(request(output=3), 13, 1, True, id="the same with the overlap schedule, a token ahead"),
        pytest.param(request(max_new_tokens=0), 0, 10, False, id="prefill only"),
        pytest.param(request(max_new_tokens=0, return_logprob=True), 0, 10, True, id="scores only"),
        pytest.param(request(paired=False), 0, 10, False, id="ordinary module"),
    ],
)
def test_who_has_a_second_row(req, prefix, extend, has_one):
    batch = SimpleNamespace(
        reqs=[request(paired=False), req],
        forward_mode=ForwardMode.MIXED,
        prefix_lens=[0, prefix],
        extend_lens=[10, extend],
    )
    assert paired_requests(batch) == [1] * has_one


def test_in_a_decode_step_every_request_of_such_a_module_has_one():
    batch = SimpleNamespace(reqs=[request(), request(paired=False), request()], forward_mode=ForwardMode.DECODE)
    assert paired_requests(batch) == [0, 2]
    assert rows_of_decode(["a", "b", "c"], [0, 2]) == [None, "b", None]


def make_batch(mode, extends):
    """Requests of pool rows 7, 8, 9 that end at positions 30, 40, 50."""
    lengths = torch.tensor([30, 40, 50])
    new = torch.tensor(extends)
    return ForwardBatch(
        forward_mode=mode,
        batch_size=3,
        input_ids=torch.arange(int(new.sum())) + 100,
        req_pool_indices=torch.tensor([7, 8, 9]),
        seq_lens=lengths,
        seq_lens_cpu=lengths,
        seq_lens_sum=120,
        out_cache_loc=torch.arange(int(new.sum())) + 500,
        positions=torch.cat([torch.arange(end - n, end) for end, n in zip(lengths.tolist(), extends, strict=True)]),
        extend_seq_lens=new,
        num_token_non_padded_cpu=int(new.sum()),
    )


@pytest.mark.parametrize(("mode", "extends"), [(ForwardMode.EXTEND, [4, 1, 3]), (ForwardMode.DECODE, [1, 1, 1])])
def test_a_second_row_repeats_the_last_token_and_writes_nothing(mode, extends):
    batch = make_batch(mode, extends)
    whole = add_second_rows(batch, [0, 2])
    ends = torch.tensor(extends).cumsum(0) - 1
    num_own = len(batch.input_ids)
    assert whole.num_own_tokens == num_own
    assert whole.input_ids.tolist() == batch.input_ids.tolist() + batch.input_ids[ends[[0, 2]]].tolist()
    assert whole.positions[num_own:].tolist() == [29, 49]
    assert whole.out_cache_loc.tolist() == [*batch.out_cache_loc.tolist(), 0, 0]
    assert whole.own is batch
    second = whole.second
    assert second.forward_mode.is_decode()
    assert (second.req_pool_indices.tolist(), second.seq_lens.tolist(), second.seq_lens_sum) == ([7, 9], [30, 50], 80)
    assert (whole.batch_size, second.batch_size, batch.batch_size) == (5, 2, 3)


def test_the_logits_see_one_state_per_request_and_the_batch_as_it_was():
    batch = make_batch(ForwardMode.EXTEND, [4, 1, 3])
    whole = add_second_rows(batch, [0, 2])
    states = torch.arange(10.0)[:, None].repeat(1, 2)
    given, named = keep_one_state_per_request(None, (whole.input_ids, states, "head", whole, None), {"a": 1})
    input_ids, kept, head, seen, aux = given
    assert kept[:, 0].tolist() == [0, 1, 2, 8, 4, 5, 6, 9]
    assert (input_ids.tolist(), head, seen is batch, aux, named) == (
        batch.input_ids.tolist(),
        "head",
        True,
        None,
        {"a": 1},
    )
    assert keep_one_state_per_request(None, (batch.input_ids, states, "head", batch), {}) is None


def test_the_rule_is_read_from_the_manifest_beside_the_adapter(tmp_path):
    base = make_base(tmp_path / "base")
    targets = ("q_proj", "o_proj")
    paired = make_adapter(tmp_path / "a", base, "a", seed=1, objective="icarus", target_modules=targets)
    own = make_adapter(tmp_path / "b", base, "b", seed=1, target_modules=targets)
    bare = make_adapter(tmp_path / "c", base, "c", seed=1, manifest=False)
    assert [reads_base_kv_only(str(path)) for path in (paired, own, bare, tmp_path / "no")] == [
        True,
        False,
        False,
        False,
    ]
    assert not reads_base_kv_only(None)


def test_an_engine_has_such_modules_from_the_first_one_on():
    modules = PairedModules()
    assert not modules
    modules.add("x")
    assert modules
    assert "x" in modules
    assert None not in modules
