"""What frequency, presence and repetition penalties are held against, and prompts on which they change the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tests.support.reference import Continuation, Reference

PENALTIES = (("frequency_penalty", 1.5), ("presence_penalty", 1.5), ("repetition_penalty", 1.4))


class PenalizedReference(Reference):
    """The reference with the penalties of SGLang's sampling parameters, which count generated tokens only."""

    def penalized(self, module: str, prompt: tuple[int, ...], num_tokens: int, **penalties: float) -> Continuation:
        """Greedy continuation under ``penalties``."""
        self.penalties = penalties
        return self.ask(module, prompt, num_tokens)

    def _decode(self, cache: Any, token: int, num_tokens: int, draft: Sequence[int] = ()) -> Continuation:
        seen: list[int] = []
        for _ in range(num_tokens):
            output = self.model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache, scores = output.past_key_values, output.logits[0, -1].double()
            self._penalize(scores, seen)
            token = int(scores.argmax())
            seen.append(token)
        return Continuation(tokens=seen, logprobs=[0.0] * len(seen))

    def _penalize(self, scores: torch.Tensor, seen: list[int]) -> None:
        for token in set(seen):
            scores[token] -= self.penalties.get("frequency_penalty", 0.0) * seen.count(token)
            scores[token] -= self.penalties.get("presence_penalty", 0.0)
            factor = self.penalties.get("repetition_penalty", 1.0)
            scores[token] = scores[token] * factor if scores[token] < 0 else scores[token] / factor


def repeating_prompts(tokenizer: Path) -> list[tuple[int, ...]]:
    """Prompts after which a module of the tiny family would say one token again and again."""
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    return [tuple(loaded.encode(text)) for text in (":" * 16, "a" * 14, "3 " * 9 + "3")]
