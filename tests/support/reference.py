"""The computation that every served token is held against: plain transformers + peft.

KV of x_1..x_{n-1} by the base (adapter off); then x_n and each generated token by the
decode module over [base KV, its own KV]; greedy; float32. Or, for a module of the other
rule, each token once by the base, which keeps its KV, and once by the module, which
reads that alone. Nothing of SGLang, and nothing of this project, takes part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache


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
        self._last: tuple[tuple[int, ...], object] = ((), None)

    @torch.no_grad()
    def ask(self, module: str | None, prompt: Sequence[int], num_tokens: int) -> Continuation:
        """Greedy continuation of ``prompt`` by ``module``; EOS is not special."""
        cache = copy.deepcopy(self._base_prefill(tuple(prompt[:-1])))
        if module is None:
            with self.model.disable_adapter():
                return self._decode(cache, prompt[-1], num_tokens)
        self.model.set_adapter(module)
        return self._decode(cache, prompt[-1], num_tokens)

    def _base_prefill(self, tokens: tuple[int, ...]) -> object:
        # All modules ask one prompt after the other: the last one's KV is kept, and never written to.
        if self._last[0] != tokens:
            with self.model.disable_adapter():
                output = self.model(torch.tensor([tokens]), use_cache=True, logits_to_keep=1) if tokens else None
            self._last = (tokens, output and output.past_key_values)
        return self._last[1]

    def _decode(self, cache: Any, token: int, num_tokens: int) -> Continuation:
        tokens: list[int] = []
        logprobs: list[float] = []
        for _ in range(num_tokens):
            output = self.model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            scores = torch.log_softmax(output.logits[0, -1].double(), dim=-1)
            token = int(scores.argmax())
            tokens.append(token)
            logprobs.append(float(scores[token]))
        return Continuation(tokens=tokens, logprobs=logprobs)

    @torch.no_grad()
    def ask_over_base(self, module: str, prompt: Sequence[int], num_tokens: int) -> Continuation:
        """Greedy continuation by a module that reads base-made KV at every position, its own token's among it."""
        cache = copy.deepcopy(self._base_prefill(tuple(prompt[:-1]))) or DynamicCache()
        token, tokens, logprobs = prompt[-1], [], []
        for _ in range(num_tokens):
            with self.model.disable_adapter():
                cache = self.model(torch.tensor([[token]]), past_key_values=cache, use_cache=True).past_key_values
            self.model.set_adapter(module)
            output = self.model(torch.tensor([[token]]), past_key_values=_ReadOnly(cache), use_cache=True)
            scores = torch.log_softmax(output.logits[0, -1].double(), dim=-1)
            token = int(scores.argmax())
            tokens.append(token)
            logprobs.append(float(scores[token]))
        return Continuation(tokens=tokens, logprobs=logprobs)

    @torch.no_grad()
    def prompt_logprobs(self, prompt: Sequence[int]) -> list[float]:
        """The base's log-probability of each prompt token after the first."""
        with self.model.disable_adapter():
            logits = self.model(torch.tensor([list(prompt)])).logits[0, :-1]
        scores = torch.log_softmax(logits.double(), dim=-1)
        return scores[torch.arange(len(prompt) - 1), torch.tensor(list(prompt[1:]))].tolist()


class _ReadOnly(DynamicCache):
    """Gives a token the keys and values of all positions up to its own as they were computed before, not its own."""

    def __init__(self, known: DynamicCache) -> None:
        super().__init__()
        self.known = known

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any) -> tuple[Any, Any]:
        layer = self.known.layers[layer_idx]
        return layer.keys, layer.values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.known.get_seq_length(layer_idx) - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.known.get_seq_length(layer_idx), 0
