"""Codebooks, scales and norms trained by the cache-conditioned loss over the full-precision base's KV; codes stay.

A few dozen steps win back what k-means lost: 55 thousand parameters for the tiny family.
"""

import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefillshare.config.quantisation import Tuning
from prefillshare.errors import ModuleError, TrainingError
from prefillshare.modules.manifest import MANIFEST_NAME, ModuleManifest, write_manifest
from prefillshare.quantize.decode_module import is_trained
from prefillshare.training.layout import Layout
from prefillshare.training.objective import layout_loss

_LEAST_RATE = 0.1
"""Part of the peak rate that is left at the last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a step of tuning was like."""

    loss: float
    """The loss before it."""
    norm: float
    """Norm of the gradient."""
    rate: float
    """Rate of codebooks and norms."""


class Descent:
    """AdamW over what is trained of a model, at the rates of a run."""

    def __init__(self, model: nn.Module, how: Tuning) -> None:
        self._how = how
        self.trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        scales = [value for name, value in self.trained.items() if name.endswith(".scales")]
        others = [value for name, value in self.trained.items() if not name.endswith(".scales")]
        groups = [{"params": others, "lr": how.codebook_rate}, {"params": scales, "lr": how.scale_rate}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.num_steps = 0
        """Steps done."""

    def step(self, losses: Iterable[Tensor]) -> Done:
        """Lower the sum of losses, each gone back through as it comes, so that one at a time is in memory.

        Raises: TrainingError when the loss is no number.
        """
        factor = rate_factor(self.num_steps, self._how)
        for group, rate in zip(
            self.optimizer.param_groups, (self._how.codebook_rate, self._how.scale_rate), strict=True
        ):
            group["lr"] = rate * factor
        self.optimizer.zero_grad()
        total = 0.0
        for loss in losses:
            total += loss.item()
            if not math.isfinite(total):
                raise TrainingError(
                    f"the loss is {total} at step {self.num_steps + 1} of tuning: lower codebook_rate and scale_rate"
                )
            loss.backward()
        norm = nn.utils.clip_grad_norm_([*self.trained.values()], self._how.clip_norm)
        self.optimizer.step()
        self.num_steps += 1
        return Done(loss=total, norm=float(norm), rate=self._how.codebook_rate * factor)


class Tuner:
    """Trains a module from :func:`~.decode_module.load_trainable`, a layout a step."""

    def __init__(self, model: nn.Module, prefill_model: nn.Module, how: Tuning) -> None:
        self.model, self._prefill_model = model, prefill_model
        self._descent = Descent(model, how)

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return self._descent.num_steps

    def step(self, layout: Layout) -> Done:
        """Train a step.

        Raises: TrainingError when the loss is no number.
        """
        return self._descent.step(
            [layout_loss(self.model, layout, prefill_model=self._prefill_model) / layout.weights.sum()]
        )

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "num_steps": self.num_steps,
            "trained": {name: value.detach() for name, value in self._descent.trained.items()},
            "optimizer": self._descent.optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        for name, value in self._descent.trained.items():
            value.copy_(state["trained"][name])
        self._descent.optimizer.load_state_dict(state["optimizer"])
        self._descent.num_steps = state["num_steps"]


def rate_factor(step: int, how: Tuning) -> float:
    """Part of the peak rates in a step counted from 0: it rises linearly, then falls in a half cosine."""
    if step < how.warmup_steps:
        return (step + 1) / (how.warmup_steps + 1)
    done = (step - how.warmup_steps) / max(1, how.steps - how.warmup_steps)
    return _LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@torch.no_grad()
def held_out_loss(model: nn.Module, prefill_model: nn.Module, layouts: Iterable[Layout]) -> float:
    """The mean loss of a token in conversations that nothing was learned from."""
    total = weight = 0.0
    for layout in layouts:
        total += layout_loss(model, layout, prefill_model=prefill_model).item()
        weight += layout.weights.sum().item()
    return total / weight


def write_tuned(model: nn.Module, quantised: Path, out: Path, manifest: ModuleManifest) -> Path:
    """Write the quantised module with what was trained in its place.

    Effects: `out` appears complete or not at all.
    Raises: ModuleError when it exists.
    """
    trained = trained_tensors(model)
    return write_changed(quantised, out, manifest, lambda file: in_place(load_file(file), trained))


def write_changed(
    quantised: Path, out: Path, manifest: ModuleManifest, tensors_of: Callable[[Path], dict[str, Tensor]]
) -> Path:
    """Write the quantised module with other tensors in its files.

    Effects: `out` appears complete or not at all.
    Raises: ModuleError when it exists.
    """
    if out.exists():
        raise ModuleError(f"{out} exists: choose another directory, or remove it")
    work = out.with_name(f".{out.name}.tuning")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(quantised, work, ignore=shutil.ignore_patterns("*.safetensors", MANIFEST_NAME))
    for file in quantised.glob("*.safetensors"):
        save_file(tensors_of(file), work / file.name, {"format": "pt"})
    write_manifest(work, manifest)
    work.rename(out)
    return out


def in_place(tensors: dict[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with what was trained in its place, in the type that they had."""
    return tensors | {name: trained[name].to(old.dtype) for name, old in tensors.items() if name in trained}


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All that was trained, by its name on disk: codebooks that layers share under the name of each."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if is_trained(name)
    }
