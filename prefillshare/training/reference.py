"""Greedy decoding as the serving path does it, in plain transformers: the yardstick for modules and for the engine."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prefillshare.training.batch import make_batch
from prefillshare.training.objective import prefill_cache


@torch.no_grad()
def decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_token: int,
    prefill_model: nn.Module | None = None,
) -> list[list[int]]:
    """Answers (without the end token) to prompts x_1..x_n: x_1..x_{n-1} by the prefill module, the rest by `model`.

    The prefill module is `prefill_model`, or else `model` with its adapter off. To decode as an ordinary fine-tuned
    model does, hand the same adapted model over as both, wrapped by `OwnPrefill`.
    """
    batch = make_batch([(prompt, [0.0] * len(prompt)) for prompt in prompts])
    cache = prefill_cache(model if prefill_model is None else prefill_model, batch.tokens)
    last = batch.lengths - 1
    tokens = batch.tokens.gather(1, last[:, None])
    of_prefill = torch.arange(batch.tokens.shape[1]) < last[:, None]
    answers: list[list[int]] = [[] for _ in prompts]
    is_open = torch.ones(len(prompts), dtype=torch.bool)
    for step in range(max_new_tokens):
        own = torch.ones(len(prompts), step + 1, dtype=torch.bool)
        tokens = _next(model, tokens, last + step, torch.cat((of_prefill, own), dim=1), cache)
        is_open &= tokens[:, 0] != end_token
        for row in is_open.nonzero().flatten().tolist():
            answers[row].append(int(tokens[row, 0]))
        if not is_open.any():
            break
    return answers


class OwnPrefill(nn.Module):
    """A model that hides its `disable_adapter`, so that `decode` lets it make its own prompt KV."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: object) -> object:
        return self.model(**inputs)


def _next(model: nn.Module, tokens: Tensor, positions: Tensor, visible: Tensor, cache: object) -> Tensor:
    logits = model(
        input_ids=tokens,
        position_ids=positions[:, None],
        attention_mask=visible[:, None, None],
        past_key_values=cache,
        use_cache=True,
    ).logits
    return logits[:, -1].argmax(dim=-1, keepdim=True)
