"""Ordinary adapters, trained with their own weights on the whole text, in plain transformers + peft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.support.engines import MODELS_DIR

TINY = MODELS_DIR / "tiny"
ORDINARY = {"own-math": TINY / "naive" / "math", "own-code": TINY / "naive" / "code"}


class Alone:
    """Adapters that are on at every position of prompt and answer; nothing of this project takes part."""

    def __init__(self, adapters: Mapping[str, Path] = ORDINARY) -> None:
        model = AutoModelForCausalLM.from_pretrained(TINY / "base", dtype=torch.float32, attn_implementation="eager")
        (first, path), *others = adapters.items()
        self.model = PeftModel.from_pretrained(model, path, adapter_name=first)
        for name, other in others:
            self.model.load_adapter(other, adapter_name=name)
        self.model.eval()

    @torch.no_grad()
    def scores(self, module: str, tokens: Sequence[int]) -> torch.Tensor:
        """Log-probabilities of the token after each of `tokens`. Shapes: (tokens, vocabulary), natural logarithms."""
        self.model.set_adapter(module)
        return torch.log_softmax(self.model(torch.tensor([list(tokens)])).logits[0].double(), dim=-1)

    def is_greedy(self, module: str, prompt: Sequence[int], answer: Sequence[int]) -> bool:
        """Whether each token of an answer has the highest score given those before it."""
        scores = self.scores(module, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
        return bool((scores.argmax(dim=-1) == torch.tensor(list(answer))).all())

    def logprobs(self, module: str, tokens: Sequence[int]) -> list[float]:
        """The log-probability of each token after the first."""
        scores = self.scores(module, tokens[:-1])
        return scores[torch.arange(len(tokens) - 1), torch.tensor(list(tokens[1:]))].tolist()

    def answer(self, module: str, prompt: Sequence[int], num_tokens: int, end: int | None = None) -> list[int]:
        """The greedy answer, up to `num_tokens` tokens or the token `end`, which is left out."""
        tokens: list[int] = []
        while len(tokens) < num_tokens:
            token = int(self.scores(module, [*prompt, *tokens])[-1].argmax())
            if token == end:
                break
            tokens.append(token)
        return tokens
