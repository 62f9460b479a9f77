"""A sharing ratio for each conversation: the part before it is the base's KV, the rest the module's, with gradient."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from prefillshare.training.layout import lay_out, segment_bounds
from prefillshare.training.objective import documents_of, layout_loss
from tests.training.gradients import TOLERANCE, assert_same, loss_and_gradients

RATIOS = (0.0, 0.4, 1.0)


def by_definition(model, prefill, documents, ratios, off):
    """Summed loss, answer by answer: KV up to the boundary by the base, all behind it by the module in one pass."""
    losses = []
    for (tokens, weights), ratio in zip(documents, ratios, strict=True):
        for first, end in segment_bounds(weights):
            ids = torch.as_tensor(tokens)[None, :end]
            boundary = int(ratio * (first - 1))
            cache = None
            if boundary:
                with torch.no_grad(), off():
                    cache = prefill(input_ids=ids[:, :boundary], use_cache=True).past_key_values
            logits = model(input_ids=ids[:, boundary : end - 1], past_key_values=cache, use_cache=True).logits[0]
            losses.append(F.cross_entropy(logits[first - 1 - boundary :], ids[0, first:end], reduction="none"))
    return torch.cat(losses).mean()


def gradients_of(model, loss):
    model.zero_grad()
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return float(loss.detach()), found


@pytest.mark.parametrize("packed", [False, True])
def test_an_adapter_gets_the_gradients_of_the_definition(adapted, batch, packed):
    documents = documents_of(batch)
    wanted = gradients_of(adapted, by_definition(adapted, adapted, documents, RATIOS, adapted.disable_adapter))
    found = loss_and_gradients(adapted, lay_out(documents, packed=packed, sharing_ratio=RATIOS))
    assert_same(f"ratios {RATIOS}, {'packed' if packed else 'padded'} against answer by answer", wanted, found)


def test_full_weights_get_the_gradients_of_the_definition(base, batch):
    documents = documents_of(batch)
    module, prefill = deepcopy(base), base.requires_grad_(False)
    with torch.no_grad():
        # Another model than the base: else whose KV is read would not show.
        for parameter in module.parameters():
            parameter.mul_(1.1)
    wanted = gradients_of(module, by_definition(module, prefill, documents, RATIOS, torch.no_grad))
    layout = lay_out(documents, packed=True, sharing_ratio=RATIOS)
    found = gradients_of(module, layout_loss(module, layout, prefill_model=prefill) / layout.weights.sum())
    assert_same(f"ratios {RATIOS}, full weights, packed against answer by answer", wanted, found)


def test_the_gradient_reaches_what_the_module_computes_of_the_prompt(adapted, batch):
    """Without it, keys and values of the prompt's own part would be constants, as the base's are."""
    documents = documents_of(batch)[:1]
    _, whole = loss_and_gradients(adapted, lay_out(documents, packed=True, sharing_ratio=0.5))
    constant = by_definition_with_constant_prompt(adapted, documents[0], 0.5)
    differences = {name: float((whole[name] - constant[name]).abs().max()) for name in whole if ".v_proj." in name}
    print(f"gradients of v_proj differ by up to {max(differences.values()):.1e}")
    assert max(differences.values()) > 100 * TOLERANCE


def by_definition_with_constant_prompt(model, document, ratio):
    tokens, weights = document
    ((first, end),) = segment_bounds(weights)
    ids = torch.as_tensor(tokens)[None, :end]
    boundary = int(ratio * (first - 1))
    with torch.no_grad():
        with model.disable_adapter():
            cache = model(input_ids=ids[:, :boundary], use_cache=True).past_key_values
        cache = model(input_ids=ids[:, boundary : first - 1], past_key_values=cache, use_cache=True).past_key_values
    logits = model(input_ids=ids[:, first - 1 : end - 1], past_key_values=cache, use_cache=True).logits[0]
    return gradients_of(model, F.cross_entropy(logits, ids[0, first:end]))[1]


def test_each_conversation_has_its_own_boundary():
    # positions 0..7, the answer at 6..7: x_n is position 5, and 5 tokens lie before it
    weights = [0, 0, 0, 0, 0, 0, 1, 1]
    documents = [(range(10, 18), weights), (range(20, 28), weights)]
    layout = lay_out(documents, packed=False, sharing_ratio=[0.5, 1.0])
    assert layout.prefill_tokens.tolist() == [[10, 11, 0, 0, 0], [20, 21, 22, 23, 24]]
    assert layout.inputs.tolist() == [[12, 13, 14, 15, 16], [25, 26, 0, 0, 0]]
    assert layout.labels.tolist() == [[-100, -100, -100, 16, 17], [26, 27, -100, -100, -100]]
    packed = lay_out(documents, packed=True, sharing_ratio=[0.5, 1.0])
    assert packed.prefill_tokens.tolist() == [[10, 11, 20, 21, 22, 23, 24]]
    assert packed.inputs.tolist() == [[12, 13, 14, 15, 16, 25, 26]]
