"""A LoRA adapter on disk: what it changes, and whether it fits a prefill module.

The shapes of its tensors are the truth; adapter_config.json must say the same (`adapter_config`), and the engine must
load exactly these tensors (`adapter_files`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.errors import ModuleError
from prefillshare.modules.adapter_config import read_adapter_config, selects
from prefillshare.modules.adapter_files import WEIGHTS_NAME, adapter_tensors
from prefillshare.modules.fingerprint import TensorEntry, geometry, tensor_entries, weight_files

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# The engine drops what belongs to no numbered layer without a word.
_IN_LAYER = re.compile(r"(?:^|\.)layers\.\d+\.")
_EMBEDDINGS = {"embed_tokens", "lm_head", "unembed_tokens", "wte", "embed_out"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraShape:
    """An adapter to be trained; all modules of a deployment share one set of targets, as the engine wants."""

    rank: int = 32
    """Rank of every adapter matrix."""
    alpha: int = 64
    """Scale: the update is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Projections that carry an adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What the engine must know about one LoRA adapter."""

    path: Path
    """Its directory."""
    rank: int
    """Rank r of its matrices."""
    target_modules: tuple[str, ...]
    """Last names of the linear layers that it changes, such as q_proj."""
    base_name: str | None
    """base_model_name_or_path of its configuration."""
    layers: Mapping[str, tuple[int, int]]
    """Shapes: (out, in) of every linear layer that it changes, by the layer's full name."""
    config: Mapping[str, Any]
    """adapter_config.json."""


def read_adapter(path: Path, name: str) -> Adapter:
    """Return the adapter in directory `path`; `name` is its module's name, for messages.

    Raises: ModuleError when it is no LoRA adapter or one that the engine cannot serve exactly.
    """
    config = read_adapter_config(path, name)
    sides = _shapes_by_module(path, name)
    last_names = _last_names([*sides, *_listed_targets(config)])
    _refuse_layers(name, sides, last_names)
    _refuse_unselected(name, sides, config)
    ranks = {shapes["A"][0] for shapes in sides.values()}
    if ranks != {config["r"]}:
        raise ModuleError(
            f"module {name!r} says rank {config['r']} but its tensors have {_listed(ranks)}: save the adapter again"
        )
    return Adapter(
        path=path,
        rank=ranks.pop(),
        target_modules=last_names,
        base_name=config.get("base_model_name_or_path"),
        layers={module: (pair["B"][0], pair["A"][1]) for module, pair in sides.items()},
        config=config,
    )


def check_adapter_fits(adapter: Adapter, base: Path, name: str, base_name: str) -> None:
    """Compare every layer that the adapter changes, and every one that it names, with the checkpoint `base`.

    Raises: ModuleError naming the first layer that does not exist, has another shape, or that the adapter leaves out.
    """
    shapes = {entry.name: entry.shape for entry in tensor_entries(weight_files(base))}
    wrong = f"decode module {name!r} does not fit prefill module {base_name!r}"
    fix = "use the prefill module that it was trained on"
    for module, found in adapter.layers.items():
        expected = shapes.get(f"{module}.weight")
        if expected is None:
            if _is_quantised(module, shapes):
                continue  # a quantised layer does not show its logical shape
            num_layers = geometry(base)["num_layers"]
            raise ModuleError(f"{wrong}: it changes {module}, and the {num_layers} layers there have none: {fix}")
        if found != expected:
            raise ModuleError(f"{wrong}: its {module} is {_size(found)} and there it is {_size(expected)}: {fix}")
    _refuse_missing(adapter, name, base_name, _linear_layers(shapes))


def _refuse_missing(adapter: Adapter, name: str, base_name: str, linear: Iterable[str]) -> None:
    if missing := [module for module in linear if module not in adapter.layers and selects(adapter.config, module)]:
        raise ModuleError(
            f"module {name!r} chooses {missing[0]} in its adapter_config.json and has no matrices for it: its weights "
            "are incomplete, save the adapter again"
        )
    known = {module.rpartition(".")[2] for module in linear}
    if strange := [target for target in adapter.target_modules if target not in known] if known else []:
        raise ModuleError(
            f"module {name!r} lists {strange[0]!r} in target_modules, and prefill module {base_name!r} has no such "
            f"layer ({', '.join(sorted(known))}): remove it from adapter_config.json"
        )


def _linear_layers(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The matrices of the decoder's layers; none for a mixture of experts, whose names do not tell what is linear."""
    if any(".experts." in tensor for tensor in shapes):
        return []
    names = [tensor.rpartition(".") for tensor, shape in shapes.items() if len(shape) == 2 and _IN_LAYER.search(tensor)]
    return [name for name, _, part in names if part == "weight" or _is_quantised(name, shapes)]


def _is_quantised(module: str, shapes: Mapping[str, object]) -> bool:
    return f"{module}.qweight" in shapes or f"{module}.weight_packed" in shapes


def _listed_targets(config: Mapping[str, Any]) -> list[str]:
    # The engine wants every name that the configuration lists, even one without tensors.
    targets = config.get("target_modules")
    return [str(target) for target in targets] if isinstance(targets, list) else []


def _last_names(modules: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({module.rpartition(".")[2] for module in modules}))


def _refuse_layers(name: str, modules: Iterable[str], last_names: tuple[str, ...]) -> None:
    if embeddings := sorted(_EMBEDDINGS & set(last_names)):
        raise ModuleError(
            f"module {name!r} changes {embeddings[0]}, which all modules share: train it on the attention and MLP "
            "projections only"
        )
    if experts := [module for module in modules if ".experts." in module]:
        raise ModuleError(
            f"module {name!r} changes the expert layer {experts[0]}, which is not verified yet: train it on the "
            "attention projections only"
        )


def _refuse_unselected(name: str, modules: Iterable[str], config: Mapping[str, Any]) -> None:
    # PEFT loads matrices for the layers that the configuration chooses and drops the others; the engine uses them all.
    if unselected := [module for module in modules if not selects(config, module)]:
        raise ModuleError(
            f"module {name!r} has matrices for {unselected[0]}, which its adapter_config.json does not choose "
            "(target_modules, exclude_modules, layers_to_transform): save the adapter again"
        )
    if outside := [module for module in modules if not _IN_LAYER.search(module)]:
        raise ModuleError(
            f"module {name!r} changes {outside[0]}, which is in no decoder layer and which the engine would leave "
            "unchanged: train it on the attention and MLP projections only"
        )


def _shapes_by_module(path: Path, name: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes: {layer: {"A": (r, in), "B": (out, r)}}."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for entry in adapter_tensors(path, name):
        match = _KEY.fullmatch(entry.name)
        if match is None:
            raise ModuleError(f"module {name!r} has the tensor {entry.name!r}, {_why_unknown(entry)}")
        sides.setdefault(match["module"], {})[match["side"]] = entry.shape
    for module, pair in sides.items():
        if pair.keys() != {"A", "B"} or {len(shape) for shape in pair.values()} != {2} or pair["A"][0] != pair["B"][1]:
            raise ModuleError(f"module {name!r} has no matching pair of matrices for {module}: save the adapter again")
    if not sides:
        raise ModuleError(f"module {name!r} has no tensors in {path / WEIGHTS_NAME}: save the adapter again")
    return sides


def _why_unknown(entry: TensorEntry) -> str:
    if "lora_embedding" in entry.name or "embed_tokens" in entry.name or "lm_head" in entry.name:
        return "but embeddings and LM head are shared: train it on the attention and MLP projections only"
    if "lora_magnitude" in entry.name:
        return "which belongs to DoRA: train it as a plain LoRA adapter"
    return "which is not a LoRA matrix: save it with peft's save_pretrained"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in sorted(values, key=str))
