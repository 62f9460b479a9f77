"""KV of prompt and answer by the base alone (ICaRus modules): loss, gradients and answers equal the definition."""

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from prefillshare.modules.adapter import LoraShape
from prefillshare.training.layout import lay_out, lay_out_all_base, segment_bounds
from prefillshare.training.model import add_adapter
from prefillshare.training.objective import all_base_loss, cache_conditioned_loss, documents_of
from prefillshare.training.reference import decode
from tests.training.gradients import TOLERANCE, assert_same, loss_and_gradients, loss_and_gradients_sharded

TARGETS = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class BaseKv(DynamicCache):
    """KV that a pass of the module reads and cannot change."""

    def __init__(self, layers):
        super().__init__()
        self._stored = layers

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        assert key_states.shape[2] == 1, "the definition goes token by token"
        return self._stored[layer_idx].keys, self._stored[layer_idx].values


def next_logits(model, tokens):
    """Logits behind the tokens by the definition: KV of all of them by the base, the last one asked by the module."""
    with torch.no_grad(), model.disable_adapter():
        layers = model(input_ids=torch.tensor([tokens]), use_cache=True).past_key_values.layers
    position = torch.tensor([[len(tokens) - 1]])
    mask = torch.ones(1, 1, 1, len(tokens), dtype=torch.bool)
    return model(
        input_ids=torch.tensor([tokens[-1:]]),
        position_ids=position,
        attention_mask=mask,
        past_key_values=BaseKv(layers),
    ).logits[0, -1]


@torch.no_grad()
def answer_by_definition(model, prompt, num_tokens):
    """Greedy answer, each token from the KV of all tokens before it made anew."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(next_logits(model, tokens).argmax()))
    return tokens[len(prompt) :]


def definition_loss(model, documents):
    """Mean loss of all targets, one by one, without batching, padding or a common pass."""
    losses = []
    for tokens, weights in documents:
        ids = [int(token) for token in tokens]
        for first, end in segment_bounds(weights):
            losses += [F.cross_entropy(next_logits(model, ids[:at]), torch.tensor(ids[at])) for at in range(first, end)]
    return torch.stack(losses).mean()


@pytest.fixture
def asking(base):
    """The micro model with an adapter that is not zero, on all that asks and nothing that makes KV."""
    model = add_adapter(base, LoraShape(rank=4, alpha=8, targets=TARGETS), "micro", seed=5)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def documents(batch):
    """Three conversations without anything in common, then two that start with the same 15 tokens."""
    alone = documents_of(batch)
    tokens, _ = alone[2]
    branches = []
    for number in (1, 2):
        ids = torch.cat((torch.as_tensor(tokens[:15]), torch.arange(40, 46) + 7 * number))
        branches.append((ids.numpy(), [0.0] * 17 + [1.0] * 4))
    return [*alone, *branches]


@pytest.mark.parametrize("layout", ["one by one", "padded", "packed"])
def test_loss_and_gradients_equal_the_definition(asking, documents, layout):
    asking.zero_grad()
    reference = definition_loss(asking, documents)
    reference.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in asking.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name and float(gradient.abs().max()) > 0 for name, gradient in wanted.items())
    groups = [[document] for document in documents] if layout == "one by one" else [documents]
    found = loss_and_gradients(asking, *(lay_out_all_base(group, packed=layout != "padded") for group in groups))
    assert_same(f"{layout} against the definition", found, (float(reference.detach()), wanted))


def test_it_is_another_loss_than_that_over_own_answers(asking, batch):
    all_base, own = all_base_loss(asking, batch), cache_conditioned_loss(asking, batch)
    print(f"all-base {float(all_base.detach()):.4f}, own-answers {float(own.detach()):.4f}")
    assert abs(float((all_base - own).detach())) > 1e-3


def test_an_untrained_module_has_the_loss_of_the_base(base, batch):
    model = add_adapter(base, LoraShape(rank=4, alpha=8, targets=TARGETS), "micro", seed=5)
    all_base, own = all_base_loss(model, batch), cache_conditioned_loss(model, batch)
    assert torch.allclose(all_base, own, atol=TOLERANCE, rtol=0)


def test_a_query_sees_the_prefill_modules_kv_up_to_itself():
    # positions 0..7, answers at 2..3 and 6..7: queries are positions 1, 2, 5 and 6
    layout = lay_out_all_base([(range(10, 18), [0, 0, 1, 1, 0, 0, 1, 1])], packed=False)
    assert layout.prefill_tokens.tolist() == [[10, 11, 12, 13, 14, 15, 16]]
    assert layout.prefill_mask is None
    assert layout.inputs.tolist() == [[11, 12, 15, 16]]
    assert layout.labels.tolist() == [[12, 13, 16, 17]]
    assert layout.positions.tolist() == [[1, 2, 5, 6]]
    assert layout.mask[0, 0].int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1],
    ]


def test_packing_computes_a_shared_start_once(documents):
    packed, own = lay_out_all_base(documents, packed=True), lay_out(documents, packed=True)
    needed = [segment_bounds(weights)[-1][1] - 1 for _, weights in documents]
    assert packed.prefill_tokens.numel() == sum(needed) - 2 * 15
    assert packed.inputs.numel() == own.inputs.numel()


@pytest.mark.parametrize("packed", [False, True])
def test_checkpointing_gives_the_same_gradients(asking, documents, packed):
    layout = lay_out_all_base(documents, packed=packed)
    asking.train()
    plain = loss_and_gradients(asking, layout)
    asking.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    assert_same("checkpointing against none", plain, loss_and_gradients(asking, layout))


def test_a_sharded_model_gives_the_same_gradients(asking, documents, tmp_path):
    layout = lay_out_all_base(documents, packed=True)
    plain = loss_and_gradients(asking, layout)
    assert_same("sharded against whole", plain, loss_and_gradients_sharded(asking, layout, tmp_path))


def test_answers_equal_those_of_the_definition(asking):
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(2, 97, (length,), generator=generator).tolist() for length in (1, 2, 9, 30, 17)]
    wanted = [answer_by_definition(asking, prompt, 12) for prompt in prompts]
    assert decode(asking, prompts, max_new_tokens=12, end_token=-1, kv_rule="all-base") == wanted
    assert decode(asking, prompts, max_new_tokens=12, end_token=-1) != wanted
