"""Batched greedy decoding equals the definition, prompt by prompt."""

import pytest
import torch
from transformers import DynamicCache

from prefillshare.training.reference import decode


def greedy(model, prompt, num_tokens, boundary=None):
    """Greedy answer by the definition: KV up to the boundary (x_{n-1}) by the base, then one token at a time."""
    boundary = len(prompt) - 1 if boundary is None else boundary
    cache, answer = DynamicCache(), []
    with torch.no_grad():
        if boundary > 0:
            with model.disable_adapter():
                model(input_ids=torch.tensor([prompt[:boundary]]), past_key_values=cache, use_cache=True)
        fed = list(prompt[boundary:])
        while len(answer) < num_tokens:
            logits = model(input_ids=torch.tensor([[fed.pop(0)]]), past_key_values=cache, use_cache=True).logits
            if not fed:
                answer.append(int(logits[0, -1].argmax()))
                fed = answer[-1:]
    return answer


def test_equals_decoding_one_by_one(adapted):
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(2, 97, (length,), generator=generator).tolist() for length in (2, 9, 30, 17)]
    wanted = [greedy(adapted, prompt, 12) for prompt in prompts]
    assert decode(adapted, prompts, max_new_tokens=12, end_token=-1) == wanted


def test_stops_at_the_end_token(adapted):
    prompt = list(range(20, 40))
    answer = greedy(adapted, prompt, 12)
    end = answer[5]
    assert decode(adapted, [prompt], max_new_tokens=12, end_token=end) == [answer[: answer.index(end)]]


def test_without_sharing_it_is_plain_generation_of_the_adapted_model(adapted):
    prompts = [list(range(20, 50)), list(range(60, 69))]
    found = decode(adapted, prompts, max_new_tokens=6, end_token=-1, sharing_ratio=0.0)
    for prompt, answer in zip(prompts, found, strict=True):
        with torch.no_grad():
            tokens = torch.tensor([prompt])
            for _ in range(6):
                tokens = torch.cat((tokens, adapted(input_ids=tokens).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
        assert answer == tokens[0, len(prompt) :].tolist()


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.99, 1.0])
def test_a_part_of_the_prompt_is_the_bases(adapted, ratio):
    """One by one: KV up to the boundary by the base, then token by token by the module."""
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(2, 97, (length,), generator=generator).tolist() for length in (2, 9, 30, 17)]
    wanted = [greedy(adapted, prompt, 8, boundary=int(ratio * (len(prompt) - 1))) for prompt in prompts]
    assert decode(adapted, prompts, max_new_tokens=8, end_token=-1, sharing_ratio=ratio) == wanted
