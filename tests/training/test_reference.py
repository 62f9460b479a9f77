"""Batched greedy decoding equals the definition, prompt by prompt."""

import torch

from prefillshare.training.reference import OwnPrefill, decode


def greedy(model, prompt, num_tokens):
    """Greedy answer by the definition: cache of x_1..x_{n-1} by the base, one token at a time after it."""
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        with model.disable_adapter():
            cache = model(input_ids=tokens[:, :-1], use_cache=True).past_key_values
        fed, answer = tokens[:, -1:], []
        for _ in range(num_tokens):
            fed = model(input_ids=fed, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
            answer.append(int(fed))
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


def test_own_prefill_is_plain_generation_of_the_adapted_model(adapted):
    prompt = list(range(20, 50))
    with torch.no_grad():
        tokens = torch.tensor([prompt])
        for _ in range(6):
            tokens = torch.cat((tokens, adapted(input_ids=tokens).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    found = decode(adapted, [prompt], max_new_tokens=6, end_token=-1, prefill_model=OwnPrefill(adapted))
    assert found == [tokens[0, len(prompt) :].tolist()]
