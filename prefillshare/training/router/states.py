"""The prefill module's hidden state of the last token of each prompt, as an engine hands it to a classifier."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from prefillshare.training.finetune.models import best_run_dtype

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def last_states(
    base: Path, prompts: Sequence[Sequence[int]], *, size_tokens: int, dtype: Literal["bf16", "fp32"] | None = None
) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return the last layer's states behind the final norm, in the order of the prompts.

    Shapes: (prompts, hidden size).
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = _load_backbone(base, _DTYPES[dtype or best_run_dtype()]).to(device).eval()
    states = np.zeros((len(prompts), backbone.config.hidden_size), dtype=np.float32)
    for numbers in _passes([len(prompt) for prompt in prompts], size_tokens):
        states[numbers] = _look(backbone, [prompts[number] for number in numbers], device)
    return states


def _load_backbone(base: Path, dtype: torch.dtype) -> Any:
    """The layers of a model, without its head."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModel.from_pretrained(base, dtype=dtype, attn_implementation="sdpa")


@torch.no_grad()
def _look(backbone: Any, prompts: Sequence[Sequence[int]], device: str) -> "np.ndarray[Any, Any]":
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    # Padding stands behind the prompt, where no token of it looks.
    tokens = torch.zeros((len(prompts), int(lengths.max())), dtype=torch.long)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    mask = (torch.arange(tokens.shape[1])[None, :] < lengths[:, None]).long()
    found = backbone(input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False).last_hidden_state
    rows = torch.arange(len(prompts), device=device)
    last: np.ndarray[Any, Any] = found[rows, (lengths - 1).to(device)].float().cpu().numpy()
    return last


def _passes(lengths: Sequence[int], size_tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of the prompts of each pass: prompts of about one length, so that little is padding."""
    numbers: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda each: (lengths[each], each)):
        if numbers and (len(numbers) + 1) * lengths[number] > size_tokens:
            yield numbers
            numbers = []
        numbers.append(number)
    if numbers:
        yield numbers
