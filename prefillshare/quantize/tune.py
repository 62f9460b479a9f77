"""Codebooks, scales and norms trained by the cache-conditioned loss over the full-precision base's KV; codes stay.

A few dozen steps win back what k-means lost: 55 thousand parameters for the tiny family. The expanded weights of the
whole module and the base are in memory for this.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from prefillshare.errors import ModuleError
from prefillshare.modules.manifest import MANIFEST_NAME, ModuleManifest, write_manifest
from prefillshare.quantize.decode_module import is_norm
from prefillshare.training.batch import Batch
from prefillshare.training.objective import cache_conditioned_loss

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How codebooks are trained."""

    codebook_rate: float = 3e-3
    """AdamW's learning rate for codebooks and norms."""
    scale_rate: float = 3e-4
    """AdamW's learning rate for scales."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""


def tune(
    model: nn.Module, prefill_model: nn.Module, batches: Iterable[Batch], how: Tuning, say: Say = lambda _: None
) -> list[float]:
    """Train a module from :func:`~.decode_module.load_trainable`, a step a batch; return the loss before each step."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    scales = [parameter for name, parameter in trained.items() if name.endswith(".scales")]
    others = [parameter for name, parameter in trained.items() if not name.endswith(".scales")]
    optimizer = torch.optim.AdamW(
        [{"params": others, "lr": how.codebook_rate}, {"params": scales, "lr": how.scale_rate}], weight_decay=0.0
    )
    losses: list[float] = []
    for batch in batches:
        loss = cache_conditioned_loss(model, batch, prefill_model=prefill_model)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*trained.values()], how.clip_norm)
        optimizer.step()
        losses.append(loss.item())
        say(f"step {len(losses)}: loss {losses[-1]:.4f}")
    return losses


@torch.no_grad()
def held_out_loss(model: nn.Module, prefill_model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean loss over conversations that nothing was trained on."""
    losses = [cache_conditioned_loss(model, batch, prefill_model=prefill_model).item() for batch in batches]
    return sum(losses) / len(losses)


def write_tuned(model: nn.Module, quantised: Path, out: Path, manifest: ModuleManifest) -> Path:
    """Write the quantised module with what was trained in its place.

    Effects: `out` appears complete or not at all.
    Raises: ModuleError when it exists.
    """
    if out.exists():
        raise ModuleError(f"{out} exists: choose another directory, or remove it")
    work = out.with_name(f".{out.name}.tuning")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(quantised, work, ignore=shutil.ignore_patterns("*.safetensors", MANIFEST_NAME))
    trained = _trained_tensors(model)
    for file in quantised.glob("*.safetensors"):
        tensors = load_file(file)
        tensors |= {name: trained[name].to(old.dtype) for name, old in tensors.items() if name in trained}
        save_file(tensors, work / file.name, {"format": "pt"})
    write_manifest(work, manifest)
    work.rename(out)
    return out


def _trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All that was trained, by its name on disk: codebooks that layers share under the name of each."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if is_norm(name) or name.endswith((".codebooks", ".scales"))
    }
