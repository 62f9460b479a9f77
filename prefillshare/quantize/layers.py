"""A module's linear layers into codebooks, one decoder layer in memory at a time.

Each layer is a file that appears complete or not at all. Killed at any moment, the next call with the same recipe goes
on behind the last complete layer.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from prefillshare.codebook.checkpoint import tensors_of
from prefillshare.codebook.reference import dequantise
from prefillshare.codebook.section import quantization_section
from prefillshare.codebook.shape import CodebookShape
from prefillshare.errors import ModuleError
from prefillshare.modules.fingerprint import read_json
from prefillshare.modules.manifest import ModuleManifest, write_manifest
from prefillshare.modules.merge import copy_text_files
from prefillshare.quantize.clusters import Clustering, quantise
from prefillshare.quantize.source import WeightSource

_RECIPE_NAME = "recipe.json"
_INDEX_NAME = "model.safetensors.index.json"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides what comes out, beside the weights themselves."""

    shape: CodebookShape = field(default_factory=CodebookShape)
    """How rows are cut up."""
    clustering: Clustering = field(default_factory=Clustering)
    """How codebooks are searched."""
    source: str
    """Hash of the weights that are quantised."""
    data_sha256: str | None = None
    """Hash of the conversations that say how much each input counts; None counts all alike."""

    def as_dict(self) -> dict[str, Any]:
        """The recipe as manifests have it."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a module takes before and after."""

    num_weights: int
    """Numbers in linear layers."""
    linear_bytes: int
    """Bytes of linear layers afterwards."""
    other_bytes: int
    """Bytes of everything else, which stays."""

    @property
    def bits_per_weight(self) -> float:
        """Bits of a number of a linear layer, codebooks and scales included."""
        return 8 * self.linear_bytes / self.num_weights

    @property
    def times_smaller_than_bf16(self) -> float:
        """How much smaller linear layers are than in bfloat16."""
        return 16 / self.bits_per_weight


def sizes_of(source: WeightSource, shape: CodebookShape) -> Sizes:
    """Return what quantising gives, from headers alone.

    Raises: ModuleError when a layer cannot be cut up.
    """
    num_weights = linear_bytes = 0
    others = [*source.other_names(None)]
    for layer in range(source.num_layers):
        others += source.other_names(layer)
        for name in (name for names in source.linear_groups(layer) for name in names):
            num_outputs, num_inputs = source.size(f"{name}.weight")
            shape.check_fits(num_inputs, name)
            num_weights += num_outputs * num_inputs
            linear_bytes += shape.weight_bytes(num_outputs, num_inputs)
    other_bytes = sum(source.stored_bytes(name) for name in others)
    return Sizes(num_weights=num_weights, linear_bytes=linear_bytes, other_bytes=other_bytes)


def quantise_module(
    source: WeightSource,
    out: Path,
    recipe: Recipe,
    manifest: ModuleManifest,
    *,
    moments: Mapping[str, Tensor] | None = None,
    text_from: Path | None = None,
    say: Say = lambda _: None,
) -> Path:
    """Write the module with its linear layers in codebooks into `out`; it is served with `kind = "full"`.

    `moments` has the mean square of each input of a linear layer, by the name of the first that reads it.
    Effects: `out` appears complete or not at all; beside it `.<name>.quantizing` until then.
    Raises: ModuleError when `out` exists, or another recipe was begun there.
    """
    if out.exists():
        raise ModuleError(f"{out} exists: choose another directory, or remove it")
    sizes_of(source, recipe.shape)
    work = out.with_name(f".{out.name}.quantizing")
    _open(work, recipe)
    for layer in range(source.num_layers):
        file = work / f"layer-{layer:05}.safetensors"
        if not file.exists():
            _write_layer(source, layer, file, recipe, moments or {}, say)
    _save_whole({name: source.read(name) for name in source.other_names(None)}, work / "others.safetensors")
    _finish(work, source, recipe, manifest, text_from or source.base)
    work.rename(out)
    return out


def _open(work: Path, recipe: Recipe) -> None:
    work.mkdir(parents=True, exist_ok=True)
    file = work / _RECIPE_NAME
    if file.exists() and read_json(file, "a module that is being quantised") != recipe.as_dict():
        raise ModuleError(f"{work} was begun with another recipe or other weights: remove it to begin anew")
    if not file.exists():
        partial = file.with_name("partial.json")
        partial.write_text(json.dumps(recipe.as_dict(), indent=2) + "\n", encoding="utf-8")
        partial.rename(file)


def _write_layer(
    source: WeightSource, layer: int, file: Path, recipe: Recipe, moments: Mapping[str, Tensor], say: Say
) -> None:
    tensors: dict[str, Tensor] = {name: source.read(name) for name in source.other_names(layer)}
    error = total = 0.0
    for names in source.linear_groups(layer):
        weights = [source.read(f"{name}.weight") for name in names]
        found = quantise(weights, moments.get(names[0]), recipe.shape, recipe.clustering)
        for name, weight, quantised in zip(names, weights, found, strict=True):
            if not quantised.scales.isfinite().all():
                raise ModuleError(f"{name} has weights too large for scales in float16: it cannot be quantised")
            tensors |= tensors_of(name, quantised)
            error += float((dequantise(quantised) - weight.float()).pow(2).sum())
            total += float(weight.float().pow(2).sum())
    _save_whole(tensors, file)
    say(f"layer {layer + 1}/{source.num_layers}: error {(error / total) ** 0.5:.3f} of the weights' norm")


def _save_whole(tensors: dict[str, Tensor], file: Path) -> None:
    partial = file.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {"format": "pt"})
    partial.rename(file)


def _finish(work: Path, source: WeightSource, recipe: Recipe, manifest: ModuleManifest, text_from: Path) -> None:
    config = read_json(source.base / "config.json", "a transformers checkpoint")
    config["quantization_config"] = quantization_section(recipe.shape)
    (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (source.base / "generation_config.json").exists():
        shutil.copyfile(source.base / "generation_config.json", work / "generation_config.json")
    copy_text_files(text_from, work)
    write_index(work)
    write_manifest(work, manifest)
    (work / _RECIPE_NAME).unlink()


def write_index(directory: Path) -> None:
    """Write which file has which tensor."""
    from safetensors import safe_open

    weight_map, num_bytes = {}, 0
    for file in sorted(directory.glob("*.safetensors")):
        num_bytes += file.stat().st_size
        with safe_open(file, framework="pt") as tensors:
            weight_map.update(dict.fromkeys(tensors.keys(), file.name))
    index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
    (directory / _INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
