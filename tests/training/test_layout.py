"""Padding, packing, shared prefixes and gradient checkpointing change how a batch is computed, never what comes out."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from prefillshare.errors import TrainingError
from prefillshare.training.attention import ATTENTION
from prefillshare.training.layout import lay_out, lay_out_ordinary, segment_bounds
from prefillshare.training.objective import documents_of, layout_loss
from tests.training.gradients import TOLERANCE, assert_same, loss_and_gradients, loss_and_gradients_sharded


@pytest.fixture
def documents(batch):
    """Three conversations without anything in common, then three that start with the same 15 tokens."""
    alone = documents_of(batch)
    tokens, _ = alone[2]
    branches = []
    for number in (1, 2, 3):
        ids = torch.cat((torch.as_tensor(tokens[:15]), torch.arange(40, 46) + 7 * number))
        branches.append((ids.numpy(), [0.0] * 17 + [1.0] * 4))
    return [*alone, *branches]


@pytest.mark.parametrize("kind", ["cache-conditioned", "full-ft"])
def test_padded_and_packed_batches_equal_one_by_one(adapted, documents, kind):
    make = lay_out if kind == "cache-conditioned" else lay_out_ordinary
    singly = loss_and_gradients(adapted, *(make([document], packed=False) for document in documents))
    padded = loss_and_gradients(adapted, make(documents, packed=False))
    packed = loss_and_gradients(adapted, make(documents, packed=True))
    assert_same(f"{kind}, padded against one by one", singly, padded)
    assert_same(f"{kind}, packed against padded", padded, packed)


def test_packing_computes_a_shared_start_once(documents):
    packed, padded = lay_out(documents, packed=True), lay_out(documents, packed=False)
    needed = [segment_bounds(weights)[-1][0] - 1 for _, weights in documents]
    assert packed.prefill_tokens.numel() == sum(needed) - 3 * 15
    assert padded.prefill_tokens.numel() == len(documents) * max(needed)
    assert packed.inputs.numel() == sum(int(torch.as_tensor(weights).gt(0).sum()) for _, weights in documents)


@pytest.mark.parametrize("packed", [False, True])
def test_checkpointing_gives_the_same_gradients(adapted, documents, packed):
    layout = lay_out(documents, packed=packed)
    adapted.train()
    plain = loss_and_gradients(adapted, layout)
    calls = []
    adapted.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    adapted.get_base_model().model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    assert_same("checkpointing against none", plain, loss_and_gradients(adapted, layout))
    # the prefill pass, the decode pass, and the decode pass again in the backward pass
    assert len(calls) == 3


def test_a_sharded_model_gives_the_same_gradients(adapted, documents, tmp_path):
    layout = lay_out(documents, packed=True)
    plain = loss_and_gradients(adapted, layout)
    assert_same("sharded against whole", plain, loss_and_gradients_sharded(adapted, layout, tmp_path))


@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
def test_sharing_ratio_moves_the_boundary(adapted, documents, ratio):
    tokens, weights = documents[1]
    first, end = segment_bounds(weights)[-1]
    alone = [0.0] * first + [1.0] * (end - first)
    boundary = int(ratio * (first - 1))
    ids = torch.as_tensor(tokens)[None]
    with torch.no_grad():
        with adapted.disable_adapter():
            cache = adapted(input_ids=ids[:, :boundary], use_cache=True).past_key_values if boundary else None
        logits = adapted(input_ids=ids[:, boundary : end - 1], past_key_values=cache, use_cache=True).logits[0]
        wanted = F.cross_entropy(logits[first - 1 - boundary :], ids[0, first:end])
        layout = lay_out([(tokens, alone)], packed=True, sharing_ratio=ratio)
        found = layout_loss(adapted, layout) / (end - first)
    print(f"sharing ratio {ratio}: {float(found):.6f}, by the definition {float(wanted):.6f}")
    assert torch.allclose(found, wanted, atol=TOLERANCE, rtol=0)


def test_full_decode_module_that_was_not_trained_has_the_loss_of_the_base(base, documents):
    decode = deepcopy(base)
    shared = lay_out(documents, packed=True)
    own = lay_out_ordinary(documents, packed=True)
    with torch.no_grad():
        found = layout_loss(decode, shared, prefill_model=base) / shared.weights.sum()
        wanted = layout_loss(base, own) / own.weights.sum()
    print(f"untrained decode module {float(found):.6f}, base {float(wanted):.6f}")
    assert torch.allclose(found, wanted, atol=TOLERANCE, rtol=0)


def test_prompt_of_one_token_needs_no_prefill(adapted):
    layout = lay_out([([5, 6, 7], [0.0, 1.0, 1.0])], packed=True)
    assert layout.prefill_tokens.numel() == 0
    with torch.no_grad():
        logits = adapted(input_ids=torch.tensor([[5, 6]])).logits[0]
        wanted = F.cross_entropy(logits, torch.tensor([6, 7]), reduction="sum")
        assert torch.allclose(layout_loss(adapted, layout), wanted, atol=TOLERANCE, rtol=0)


def test_attention_that_cannot_share_is_refused(adapted, documents):
    layout = lay_out(documents, packed=True)
    adapted.get_base_model().set_attn_implementation("sdpa")
    with pytest.raises(TrainingError, match="'sdpa', which cannot take"):
        layout_loss(adapted, layout)
    adapted.get_base_model().set_attn_implementation(ATTENTION)
    assert layout_loss(adapted, layout).isfinite()
