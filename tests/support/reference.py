"""The computation that every served token is held against: plain transformers + peft.

KV of x_1..x_{n-1} by the base (adapter off); then x_n and each generated token by the
decode module over [base KV, its own KV]; greedy; float32. Or, for a module of the other
rule, KV of all tokens by the base, and those of the answer by the module over that alone.
Nothing of SGLang, and nothing of this project, takes part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache

NUM_KEPT_PROMPTS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """A greedy continuation."""

    tokens: list[int]
    logprobs: list[float]
    """Log-probability of each token of ``tokens``, natural logarithm."""


class Reference:
    """One base and its adapters, loaded once.

    ``ask(None, ...)`` continues with the base itself.
    """

    def __init__(self, base: Path, adapters: dict[str, Path]) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        first, *others = adapters.items()
        self.model = PeftModel.from_pretrained(model, first[1], adapter_name=first[0])
        for name, path in others:
            self.model.load_adapter(path, adapter_name=name)
        self.model.eval()
        # All modules ask the same prompts: their KV is kept, and never written to.
        self._base_prefill = lru_cache(NUM_KEPT_PROMPTS)(self._prefill)

    @torch.no_grad()
    def ask(
        self, module: str | None, prompt: Sequence[int], num_tokens: int, draft: Sequence[int] = ()
    ) -> Continuation:
        """Greedy continuation of ``prompt`` by ``module``; EOS is not special.

        ``draft`` is what somebody takes for it. It is read in one pass, and counts as far as each token has the highest
        score given those before it; from there on the continuation is the module's own, as without a draft.
        """
        cache = copy.deepcopy(self._base_prefill(tuple(prompt[:-1])))
        if module is None:
            with self.model.disable_adapter():
                return self._decode(cache, prompt[-1], num_tokens, draft)
        self.model.set_adapter(module)
        return self._decode(cache, prompt[-1], num_tokens, draft)

    def _prefill(self, tokens: tuple[int, ...]) -> object:
        with self.model.disable_adapter():
            output = self.model(torch.tensor([tokens]), use_cache=True, logits_to_keep=1) if tokens else None
        return output and output.past_key_values

    def _decode(self, cache: Any, token: int, num_tokens: int, draft: Sequence[int] = ()) -> Continuation:
        tokens: list[int] = []
        logprobs: list[float] = []
        guess = list(draft[: num_tokens - 1])
        while len(tokens) < num_tokens:
            output = self.model(torch.tensor([[token, *guess]]), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            scores = torch.log_softmax(output.logits[0].double(), dim=-1)
            best = scores.argmax(dim=-1).tolist()
            num_right = next((place for place, guessed in enumerate(guess) if best[place] != guessed), len(guess))
            # The token after the last right one is known, too.
            tokens += best[: num_right + 1]
            logprobs += [float(scores[i, best[i]]) for i in range(num_right + 1)]
            token = tokens[-1]
            if num_right < len(guess):
                cache.crop(cache.get_seq_length() - len(guess) + num_right)
            guess = []
        return Continuation(tokens=tokens, logprobs=logprobs)

    @torch.no_grad()
    def scores_over_base(self, module: str, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
        """What a module that reads base-made KV at every position would say in the place of each token of an answer.

        Greedy decoding is that each token has the highest score given those before it, so an answer is held against
        this in two passes. Shapes: (tokens of the answer, vocabulary), natural logarithms of probabilities.
        """
        read = [*prompt, *answer[:-1]]
        with self.model.disable_adapter():
            known = self.model(torch.tensor([read]), use_cache=True, logits_to_keep=1).past_key_values
        self.model.set_adapter(module)
        tokens = torch.tensor([read[-len(answer) :]])
        output = self.model(tokens, past_key_values=_ReadOnly(known, len(answer)), use_cache=True)
        return torch.log_softmax(output.logits[0].double(), dim=-1)

    @torch.no_grad()
    def prompt_logprobs(self, prompt: Sequence[int]) -> list[float]:
        """The base's log-probability of each prompt token after the first."""
        with self.model.disable_adapter():
            logits = self.model(torch.tensor([list(prompt)])).logits[0, :-1]
        scores = torch.log_softmax(logits.double(), dim=-1)
        return scores[torch.arange(len(prompt) - 1), torch.tensor(list(prompt[1:]))].tolist()


class _ReadOnly(DynamicCache):
    """Keys and values that were computed before, also for the positions of the tokens that are just read."""

    def __init__(self, known: DynamicCache, num_read: int) -> None:
        super().__init__()
        self.known, self.num_read = known, num_read

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any) -> tuple[Any, Any]:
        layer = self.known.layers[layer_idx]
        return layer.keys, layer.values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.known.get_seq_length(layer_idx) - self.num_read

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.known.get_seq_length(layer_idx), 0
