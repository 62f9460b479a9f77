"""Answers of the stored tiny modules in process, by the reference computation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from prefillshare.modules.manifest import KvRule, read_manifest
from prefillshare.tiny.language.chatml import END, Turn, generation_prompt
from prefillshare.training.model import load_adapter, load_base
from prefillshare.training.reference import decode

BATCH = 25
MAX_NEW_TOKENS = 128


class TinyAnswers:
    """The module in a directory, an adapter or full weights, or the base when `module` is None.

    `sharing_ratio` is that of `reference.decode`.
    """

    def __init__(
        self,
        directory: Path,
        module: str | Path | None,
        *,
        sharing_ratio: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(directory / "base" / "tokenizer.json"))
        base: Any = load_base(directory / "base", dtype).eval()
        self._model: Any = base
        self._prefill: Any = None
        if module is not None and (directory / module / "adapter_config.json").exists():
            self._model = load_adapter(base, directory / module).eval()
        elif module is not None:
            self._model, self._prefill = load_base(directory / module, dtype).eval(), base
        manifest = None if module is None else read_manifest(directory / module)
        self._kv_rule: KvRule = manifest.kv_rule if manifest else "own-answers"
        self._sharing_ratio = sharing_ratio

    def answer(
        self, conversations: Sequence[Sequence[dict[str, Any]]], on_answer: Callable[[], None] = lambda: None
    ) -> list[str]:
        """Greedy answers to chat conversations, in their order."""
        prompts = [self.prompt(messages) for messages in conversations]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers = [""] * len(prompts)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            for index, answer in zip(chosen, self._decode([prompts[index] for index in chosen]), strict=True):
                answers[index] = answer
                on_answer()
        return answers

    def prompt(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Token ids of the prompt that the chat template makes."""
        turns = [Turn(role=message["role"], content=message["content"]) for message in messages]
        return self._tokenizer.encode(generation_prompt(turns)).ids

    def _decode(self, prompts: list[list[int]]) -> list[str]:
        end = self._tokenizer.token_to_id(END)
        tokens = decode(
            self._model,
            prompts,
            max_new_tokens=MAX_NEW_TOKENS,
            end_token=end,
            prefill_model=self._prefill,
            sharing_ratio=self._sharing_ratio,
            kv_rule=self._kv_rule,
        )
        return [self._tokenizer.decode(answer, skip_special_tokens=False) for answer in tokens]
