"""A LoRA adapter on disk: what it changes, and whether it fits a prefill module.

Reads adapter_config.json and the headers of the safetensors file; the shapes found there are the truth, whatever the
configuration says.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.errors import ModuleError
from prefillshare.modules.fingerprint import TensorEntry, geometry, read_json, tensor_entries, weight_files

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
_EMBEDDINGS = {"embed_tokens", "lm_head", "unembed_tokens", "wte", "embed_out"}
# Settings that change the arithmetic and that the engine would silently ignore.
_UNSUPPORTED: dict[str, str] = {
    "use_dora": "DoRA",
    "use_rslora": "rank-stabilised scaling (use_rslora)",
    "rank_pattern": "ranks per layer (rank_pattern)",
    "alpha_pattern": "scaling per layer (alpha_pattern)",
    "lora_bias": "biases (lora_bias)",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained token embeddings (trainable_token_indices)",
    "layer_replication": "replicated layers (layer_replication)",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
    "target_parameters": "expert parameters (target_parameters)",
    "alora_invocation_tokens": "an activation token (alora_invocation_tokens)",
}


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


def read_adapter(path: Path, name: str) -> Adapter:
    """Return the adapter in directory `path`; `name` is its module's name, for messages.

    Raises: ModuleError when it is no LoRA adapter or one that the engine cannot serve exactly.
    """
    config = read_json(path / "adapter_config.json", "a PEFT adapter")
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise ModuleError(
            f"module {name!r} has peft_type {config.get('peft_type')!r}: only LoRA adapters can be served"
        )
    _refuse_unsupported(path, name, config)
    sides = _shapes_by_module(path, name)
    last_names = _last_names([*sides, *_listed_targets(config)])
    _refuse_layers(name, sides, last_names)
    ranks = {shapes["A"][0] for shapes in sides.values()}
    if ranks != {config.get("r")}:
        raise ModuleError(
            f"module {name!r} says rank {config.get('r')} but its tensors have {_listed(ranks)}: save the adapter again"
        )
    return Adapter(
        path=path,
        rank=ranks.pop(),
        target_modules=last_names,
        base_name=config.get("base_model_name_or_path"),
    )


def check_adapter_fits(adapter: Adapter, base: Path, name: str, base_name: str) -> None:
    """Compare every tensor of the adapter with the layer of the checkpoint `base` that it changes.

    Raises: ModuleError naming the first layer that does not exist or has another shape.
    """
    shapes = {entry.name: entry.shape for entry in tensor_entries(weight_files(base))}
    num_layers = geometry(base)["num_layers"]
    for module, sides in _shapes_by_module(adapter.path, name).items():
        expected = shapes.get(f"{module}.weight")
        wrong = f"decode module {name!r} does not fit prefill module {base_name!r}"
        fix = "use the prefill module that it was trained on"
        if expected is None:
            if f"{module}.qweight" in shapes or f"{module}.weight_packed" in shapes:
                continue  # a quantised layer does not show its logical shape
            raise ModuleError(f"{wrong}: it changes {module}, and the {num_layers} layers there have none: {fix}")
        found = (sides["B"][0], sides["A"][1])
        if found != expected:
            raise ModuleError(f"{wrong}: its {module} is {_size(found)} and there it is {_size(expected)}: {fix}")


def _refuse_unsupported(path: Path, name: str, config: dict[str, Any]) -> None:
    for key, meaning in _UNSUPPORTED.items():
        if config.get(key):
            raise ModuleError(
                f"module {name!r} uses {meaning}, which the engine would ignore: train it as a plain LoRA adapter"
            )
    if config.get("bias", "none") != "none":
        raise ModuleError(
            f"module {name!r} trains biases (bias = {config['bias']!r}), which the engine would ignore: "
            'train it with bias = "none"'
        )
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets not in ("all-linear", "all"):
        raise ModuleError(
            f"module {name!r} has the pattern {targets!r} as target_modules, which the engine cannot read: "
            "write a list of layer names into its adapter_config.json"
        )
    if (path / "added_tokens.json").is_file():
        raise ModuleError(
            f"module {name!r} adds tokens to the vocabulary: train it with the prefill module's tokenizer"
        )


def _listed_targets(config: dict[str, Any]) -> list[str]:
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


def _shapes_by_module(path: Path, name: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes: {layer: {"A": (r, in), "B": (out, r)}}."""
    file = path / "adapter_model.safetensors"
    if not file.is_file():
        raise ModuleError(f"module {name!r} has no {file.name} in {path}: save the adapter in safetensors format")
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for entry in tensor_entries([file]):
        match = _KEY.fullmatch(entry.name)
        if match is None:
            raise ModuleError(f"module {name!r} has the tensor {entry.name!r}, {_why_unknown(entry)}")
        sides.setdefault(match["module"], {})[match["side"]] = entry.shape
    for module, pair in sides.items():
        if pair.keys() != {"A", "B"} or pair["A"][0] != pair["B"][1]:
            raise ModuleError(f"module {name!r} has no matching pair of matrices for {module}: save the adapter again")
    if not sides:
        raise ModuleError(f"module {name!r} has no tensors in {file}: save the adapter again")
    return sides


def _why_unknown(entry: TensorEntry) -> str:
    if "lora_embedding" in entry.name or "embed_tokens" in entry.name or "lm_head" in entry.name:
        return "but embeddings and LM head are shared: train it on the attention and MLP projections only"
    if "lora_magnitude" in entry.name:
        return "which belongs to DoRA: train it as a plain LoRA adapter"
    return "which is no LoRA matrix: save it with peft's save_pretrained"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in sorted(values, key=str))
