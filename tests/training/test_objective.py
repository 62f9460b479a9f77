"""The one-pass objective equals the definition: one prefill pass and one decode pass per answer."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from prefillshare.errors import TrainingError
from prefillshare.training.batch import Batch
from prefillshare.training.layout import lay_out, segment_bounds
from prefillshare.training.objective import cache_conditioned_loss, ordinary_loss, prefill_cache

TOLERANCE = 1e-5


def two_pass_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Cache-conditioned loss by the definition, without batching, padding or masks."""
    losses = []
    for row, weights in enumerate(batch.weights):
        for first, end in segment_bounds(weights):
            tokens = batch.tokens[row : row + 1, :end]
            with torch.no_grad(), model.disable_adapter():
                cache = model(input_ids=tokens[:, : first - 1], use_cache=True).past_key_values if first > 1 else None
            fed = tokens[:, first - 1 : end - 1]
            logits = model(input_ids=fed, past_key_values=cache, use_cache=True).logits
            losses.append(F.cross_entropy(logits[0], tokens[0, first:end], reduction="none"))
    return torch.cat(losses).mean()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_equals_one_pass_per_answer(adapted, batch):
    reference, fast = two_pass_loss(adapted, batch), cache_conditioned_loss(adapted, batch)
    wanted, found = gradients(adapted, reference), gradients(adapted, fast)
    reference, fast = reference.detach(), fast.detach()
    worst = max(float((wanted[name] - found[name]).abs().max()) for name in wanted)
    print(f"loss differs by {abs(float(reference - fast)):.2e}, gradients by at most {worst:.2e}")
    assert wanted.keys() == found.keys()
    assert torch.allclose(reference, fast, atol=TOLERANCE, rtol=0)
    assert worst < TOLERANCE * max(1.0, *(float(gradient.abs().max()) for gradient in wanted.values()))


def test_only_the_adapter_gets_gradients(adapted, batch):
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    names = gradients(adapted, cache_conditioned_loss(adapted, batch)).keys()
    assert names
    assert all("lora_" in name for name in names)
    assert all(torch.equal(before[name], parameter) for name, parameter in adapted.named_parameters())


def test_prompt_kv_is_that_of_the_bare_base(adapted, batch):
    bare = deepcopy(adapted).unload()
    layers = zip(prefill_cache(adapted, batch.tokens).layers, prefill_cache(bare, batch.tokens).layers, strict=True)
    assert all(
        torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values) for layer, other in layers
    )


def test_adapter_off_gives_the_logits_of_the_base(adapted, batch):
    with torch.no_grad(), adapted.disable_adapter():
        off = adapted(input_ids=batch.tokens).logits
    with torch.no_grad():
        on = adapted(input_ids=batch.tokens).logits
        base = adapted.unload()(input_ids=batch.tokens).logits
    assert torch.equal(off, base)
    assert not torch.allclose(on, base)


def test_differs_from_ordinary_fine_tuning(adapted, batch):
    shared, own = cache_conditioned_loss(adapted, batch), ordinary_loss(adapted, batch)
    assert abs(float(shared.detach() - own.detach())) > 1e-3


def test_equals_ordinary_fine_tuning_when_the_adapter_does_nothing(base, batch):
    shared, own = cache_conditioned_loss(base, batch, prefill_model=base), ordinary_loss(base, batch)
    assert torch.allclose(shared, own, atol=TOLERANCE, rtol=0)


def test_a_query_sees_its_prompt_and_its_own_answer_only():
    # positions 0..7, answers at 2..3 and 6..7: x_n are positions 1 and 5
    layout = lay_out([(range(10, 18), [0, 0, 1, 1, 0, 0, 1, 1])], packed=False)
    assert layout.prefill_tokens.tolist() == [[10, 11, 12, 13, 14]]
    assert layout.prefill_mask is None
    assert layout.inputs.tolist() == [[11, 12, 15, 16]]
    assert layout.labels.tolist() == [[12, 13, 16, 17]]
    assert layout.positions.tolist() == [[1, 2, 5, 6]]
    assert layout.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0] + [1, 0, 0, 0],
        [1, 0, 0, 0, 0] + [1, 1, 0, 0],
        [1, 1, 1, 1, 1] + [0, 0, 1, 0],
        [1, 1, 1, 1, 1] + [0, 0, 1, 1],
    ]


def test_a_shared_start_stands_once_in_a_packed_row():
    weights = [0, 0, 0, 0, 1]
    layout = lay_out([([1, 2, 3, 4, 5], weights), ([1, 2, 6, 7, 8], weights)], packed=True)
    assert layout.prefill_tokens.tolist() == [[1, 2, 3, 6]]
    assert layout.prefill_positions.tolist() == [[0, 1, 2, 2]]
    assert layout.prefill_mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert layout.inputs.tolist() == [[4, 7]]
    assert layout.mask[0, 0].int().tolist() == [[1, 1, 1, 0, 1, 0], [1, 1, 0, 1, 0, 1]]
    assert layout.num_tokens == 10


@pytest.mark.parametrize(("weights", "message"), [([0, 0, 0], "no target token"), ([1, 0, 0], "starts with a target")])
def test_unusable_conversations_are_refused(weights, message):
    with pytest.raises(TrainingError, match=message):
        lay_out([([5, 6, 7], weights)], packed=False)
