"""What sharing would cost an adapter: its loss over its own KV, as it was trained, and over the prefill module's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prefillshare.config.training import Data
from prefillshare.modules.adapter import check_adapter_fits, read_adapter
from prefillshare.training.data.prepare import prepare_rows
from prefillshare.training.finetune.examples import Collator
from prefillshare.training.finetune.models import load_tokenizer
from prefillshare.training.layout import Documents, Layout
from prefillshare.training.model import load_adapter, load_base
from prefillshare.training.objective import layout_hits, layout_loss
from prefillshare.training.progress import Reporter

if TYPE_CHECKING:
    from peft import PeftModel

RATIOS = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterScore:
    """How well an adapter says the answers of its data, token by token, each after the right ones before it."""

    sharing_ratio: float
    """Part of each prompt whose KV is the prefill module's."""
    loss: float
    """Mean loss of an answer's token, natural logarithm."""
    num_right: int
    """Tokens that are its first choice."""
    num_tokens: int
    """Tokens of all answers."""

    @property
    def share_right(self) -> float:
        """Part of the tokens that are its first choice."""
        return self.num_right / self.num_tokens


def score_adapter(
    adapter: Path, base: Path, data: Data, *, max_tokens: int, reporter: Reporter, ratios: Sequence[float] = RATIOS
) -> list[AdapterScore]:
    """Measure the adapter in a directory over KV of its own and over shared KV.

    Raises: ModuleError when it does not fit the base; TrainingError when no row can be used.
    """
    check_adapter_fits(read_adapter(adapter, adapter.name), base, adapter.name, base.name)
    rows, report = prepare_rows(data, load_tokenizer(base), max_tokens)
    for line in report.lines():
        reporter.say(line)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = load_adapter(load_base(base, dtype), adapter).to(device).eval()
    examples = [[(np.array(part.tokens), np.array(part.weights)) for part in row] for row in rows]
    return [_score(model, examples, ratio) for ratio in ratios]


@torch.no_grad()
def _score(model: "PeftModel", rows: Sequence[Documents], sharing_ratio: float) -> AdapterScore:
    collate = Collator(objective="cache-conditioned", packed=True, sharing_ratio=sharing_ratio)
    loss, weight, num_right, num_tokens = 0.0, 0.0, 0, 0
    for row in rows:
        layout = _on(collate.layout([row]), model.device)
        loss += float(layout_loss(model, layout))
        weight += float(layout.weights.sum())
        num_right += layout_hits(model, layout)
        num_tokens += int((layout.weights > 0).sum())
    return AdapterScore(sharing_ratio=sharing_ratio, loss=loss / weight, num_right=num_right, num_tokens=num_tokens)


def _on(layout: Layout, device: torch.device) -> Layout:
    fields: dict[str, Any] = layout.as_dict()
    return Layout(
        **{name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in fields.items()}
    )
