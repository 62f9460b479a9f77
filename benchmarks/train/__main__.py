"""Time and activation memory per sample of ordinary and cache-conditioned fine-tuning, on a random Qwen3-shaped model.

Run: `make bench-train`; ARGS="--prompt 820 --answer 205 --shape small". Forward and backward of one sample at a time
(batch 1, as in the paper); the optimizer's step, equal for all, is left out. On a CPU the time is that of the process
(one thread), so that other programs disturb it little, and memory is the most that tensors of one sample occupy at one
time, gradients excluded.
"""

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.train.memory import LiveBytes
from prefillshare.config.training import KV_PROJECTIONS
from prefillshare.modules.adapter import LoraShape
from prefillshare.tiny.base_model import new_base
from prefillshare.tiny.recipe import ModelShape
from prefillshare.training.layout import Documents, lay_out, lay_out_all_base, lay_out_ordinary
from prefillshare.training.memory import keep_freed_memory
from prefillshare.training.model import add_adapter
from prefillshare.training.objective import layout_loss

SHAPES = {
    "small": (
        ModelShape(hidden_size=512, num_layers=6, num_heads=8, num_kv_heads=4, head_dim=64, intermediate_size=1536),
        8192,
    ),
    "qwen3-1.7b": (
        ModelShape(hidden_size=2048, num_layers=28, num_heads=16, num_kv_heads=8, head_dim=128, intermediate_size=6144),
        151936,
    ),
}
STOCK, OWN, SHARED = "ordinary SFT, all logits", "ordinary SFT", "PrefillShare"
ALL_BASE = "PrefillShare, ICaRus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One way of training."""

    kind: str
    """full or lora."""
    objective: str
    """What the loss is computed over."""
    seconds: float
    """Median seconds per sample."""
    memory_bytes: int
    """Peak of activations, KV and temporaries."""
    tokens_per_s: float
    """Tokens of a sample per second."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    samples = _samples(options)
    lines = [line for kind in ("full", "lora") for line in _measure_kind(kind, samples, options)]
    text = _report(lines, options)
    print(text)
    if options.out:
        options.out.write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--prompt", type=int, default=820, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=205, help="tokens of an answer")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, default=None, help="markdown file; figures go beside it as JSON")
    return parser.parse_args()


def _samples(options: argparse.Namespace) -> list[Documents]:
    rng = np.random.default_rng(1)
    vocab = SHAPES[options.shape][1]
    weights = np.array([0.0] * options.prompt + [1.0] * options.answer)
    return [[(rng.integers(2, vocab, options.prompt + options.answer), weights)] for _ in range(options.samples)]


def _measure_kind(kind: str, samples: list[Documents], options: argparse.Namespace) -> list[Line]:
    shape, vocab = SHAPES[options.shape]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base: Any = new_base(shape, vocab, end_token=1, pad_token=0, seed=3).to(device, getattr(torch, options.dtype))
    prefill = base.requires_grad_(False).eval() if kind == "full" else None
    model: Any = copy.deepcopy(base).requires_grad_(True) if kind == "full" else add_adapter(base, LoraShape(), "x", 5)
    model.train()
    ways: dict[str, Callable[[Documents], Tensor]] = {
        STOCK: lambda documents: _stock_loss(model, documents, device),
        OWN: lambda documents: layout_loss(model, _on(lay_out_ordinary(documents, packed=True), device)),
        SHARED: lambda documents: layout_loss(
            model, _on(lay_out(documents, packed=True), device), prefill_model=prefill
        ),
    }
    lines = [_measure(kind, name, model, way, samples) for name, way in ways.items()]
    return lines if kind == "full" else [*lines, _measure_all_base(model.unload(), samples, device)]


def _measure_all_base(base: Any, samples: list[Documents], device: str) -> Line:
    """An adapter over KV that is all the base's, which has no use for targets that make KV."""
    targets = tuple(target for target in LoraShape().targets if target not in KV_PROJECTIONS)
    model = add_adapter(base, LoraShape(targets=targets), "x", 5).train()
    return _measure(
        "lora",
        ALL_BASE,
        model,
        lambda rows: layout_loss(model, _on(lay_out_all_base(rows, packed=True), device)),
        samples,
    )


def _stock_loss(model: nn.Module, documents: Documents, device: str) -> Tensor:
    """What the Trainer does by default: all logits, prompt tokens masked out of the loss."""
    ((tokens, weights),) = documents
    ids = torch.as_tensor(np.asarray(tokens), device=device)[None]
    labels = torch.where(torch.as_tensor(np.asarray(weights), device=device)[None] > 0, ids, -100)
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def _on(layout: Any, device: str) -> Any:
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in layout.as_dict().items()}
    return type(layout)(**moved)


def _measure(
    kind: str, name: str, model: nn.Module, way: Callable[[Documents], Tensor], samples: list[Documents]
) -> Line:
    way(samples[0]).backward()  # warms up, and makes the gradients, which then stay
    peak = _peak_bytes(way, samples[0])
    seconds = []
    for sample in samples:
        started = _clock()
        way(sample).backward()
        seconds.append(_clock() - started)
    model.zero_grad()
    median = statistics.median(seconds)
    num_tokens = len(samples[0][0][0])
    print(f"{kind:<5} {name:<26} {median:7.3f} s {peak / 2**20:9.1f} MiB", flush=True)
    return Line(kind=kind, objective=name, seconds=median, memory_bytes=peak, tokens_per_s=num_tokens / median)


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _peak_bytes(way: Callable[[Documents], Tensor], sample: Documents) -> int:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way(sample).backward()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as live:
        way(sample).backward()
    return live.peak


def _report(lines: list[Line], options: argparse.Namespace) -> str:
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, CPU time, 1 thread"
    rows = [
        "# Cost of training",
        "",
        f"Random Qwen3-shaped model ({options.shape}, {options.dtype}), prompt {options.prompt} and answer "
        f"{options.answer} tokens, batch 1, {options.samples} samples, median; {where}. Made by `make bench-train`.",
        "",
        "| kind | objective | s per sample | tokens/s | activations | time | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        own = next(other for other in lines if other.kind == line.kind and other.objective == OWN)
        rows.append(
            f"| {line.kind} | {line.objective} | {line.seconds:.3f} | {line.tokens_per_s:,.0f} | "
            f"{line.memory_bytes / 2**20:,.1f} MiB | {line.seconds / own.seconds:.2f}x | "
            f"{line.memory_bytes / own.memory_bytes:.2f}x |"
        )
    rows += [
        "",
        "Ratios are to ordinary SFT of the same kind that computes logits of the answer only; `all logits` is what",
        "transformers does by default. Tokens count prompt and answer.",
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
