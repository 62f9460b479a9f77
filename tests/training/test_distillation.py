"""What is learned from an adapter over its own KV equals the definition: two plain models, one pass per answer."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from prefillshare.config.training import Distillation
from prefillshare.training.distillation import TEACHER, distilled_loss
from prefillshare.training.layout import lay_out, lay_out_ordinary, segment_bounds
from prefillshare.training.objective import adapter_named, adapter_off, documents_of
from tests.training.gradients import assert_same


@pytest.fixture
def taught(adapted):
    """The micro model with its adapter, and another one beside it as the one that is learned from."""
    adapted.add_adapter(TEACHER, deepcopy(adapted.peft_config["default"]))
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(f".{TEACHER}." not in name)
            if f"lora_B.{TEACHER}" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return adapted


def only(model, name):
    """A plain PEFT model with one of the two adapters."""
    alone = deepcopy(model)
    alone.set_adapter(name)
    alone.delete_adapter("default" if name == TEACHER else TEACHER)
    return alone


def by_definition(module, teacher, documents, wanted, ratio):
    """Mean loss of all targets, answer by answer, in plain transformers and peft."""
    losses = []
    for tokens, weights in documents:
        for first, end in segment_bounds(weights):
            ids = torch.as_tensor(tokens)[None, :end]
            boundary = int(ratio * (first - 1))
            with torch.no_grad():
                aim = teacher(input_ids=ids[:, : end - 1], output_hidden_states=True)
                with module.disable_adapter():
                    cache = module(input_ids=ids[:, :boundary], use_cache=True).past_key_values if boundary else None
            fed = ids[:, boundary : end - 1]
            said = module(input_ids=fed, past_key_values=cache, use_cache=True, output_hidden_states=True)
            logits, taught = said.logits[0, first - 1 - boundary :], aim.logits[0, first - 1 :]
            loss = wanted.labels * F.cross_entropy(logits, ids[0, first:end], reduction="none")
            probabilities = taught.softmax(-1)
            loss = loss + wanted.answers * (probabilities * (taught.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)
            for state, other in zip(said.hidden_states[1:], aim.hidden_states[1:], strict=True):
                state, other = state[0, first - 1 - boundary :], other[0, first - 1 :]
                distance = (state - other).square().sum(-1) / other.square().sum(-1)
                loss = loss + wanted.states * distance / (len(said.hidden_states) - 1)
            losses.append(loss)
    return torch.cat(losses).mean()


def gradients_of(model, loss):
    model.zero_grad()
    loss.backward()
    named = [(name.replace(".default", ""), parameter.grad) for name, parameter in model.named_parameters()]
    return float(loss.detach()), {name: gradient.clone() for name, gradient in named if gradient is not None}


@pytest.mark.parametrize("ratio", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "wanted",
    [
        Distillation(labels=0.7, answers=1.3, states=2.0),
        Distillation(labels=0.0, states=0.0),
        Distillation(labels=1.0, answers=0.0),
    ],
)
def test_loss_and_gradients_are_those_of_the_definition(taught, batch, wanted, packed, ratio):
    documents = documents_of(batch)
    module, teacher = only(taught, "default"), only(taught, TEACHER)
    reference = gradients_of(module, by_definition(module, teacher, documents, wanted, ratio))
    layout, own = lay_out(documents, packed=packed, sharing_ratio=ratio), lay_out_ordinary(documents, packed=packed)
    found = gradients_of(taught, distilled_loss(taught, layout, own, wanted) / layout.weights.sum())
    assert_same(f"{wanted}, ratio {ratio}", reference, found)


def test_gradient_checkpointing_changes_nothing(taught, batch):
    documents = documents_of(batch)
    layout, own = lay_out(documents, packed=True), lay_out_ordinary(documents, packed=True)
    taught.train()
    plain = gradients_of(taught, distilled_loss(taught, layout, own, Distillation()))
    taught.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    again = gradients_of(taught, distilled_loss(taught, layout, own, Distillation()))
    assert_same("checkpointing against none", plain, again)


def test_the_other_adapter_computes_and_the_first_is_back_afterwards(taught):
    tokens = torch.arange(2, 30)[None]
    trained = {name: parameter.requires_grad for name, parameter in taught.named_parameters()}
    with torch.no_grad():
        first = taught(input_ids=tokens).logits
        with adapter_named(taught, TEACHER):
            other = taught(input_ids=tokens).logits
            with adapter_off(taught):
                bare = taught(input_ids=tokens).logits
        assert torch.equal(taught(input_ids=tokens).logits, first)
        assert torch.equal(other, only(taught, TEACHER)(input_ids=tokens).logits)
        assert torch.equal(bare, deepcopy(taught).unload()(input_ids=tokens).logits)
    assert not torch.allclose(first, other)
    assert {name: parameter.requires_grad for name, parameter in taught.named_parameters()} == trained
