"""adapter_config.json: whether its every field asks for what the engine computes.

An allow-list. The engine reads `r`, `lora_alpha` and `target_modules`, computes x + (lora_alpha / r) B A x over
unchanged base weights in every layer that has matrices, and ignores all other fields without a word. So each field of
PEFT is listed here with the values at which PEFT computes the same; any other value, and any value of a field that is
not listed, is refused.

Source: peft/tuners/lora/config.py and layer.py (`LoraLayer.update_layer`) of the pinned PEFT; sglang/srt/lora at
0.5.17.
"""

import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefillshare.errors import ModuleError, short_repr
from prefillshare.modules.fingerprint import read_json

CONFIG_NAME = "adapter_config.json"
_PLAIN = "train it as a plain LoRA adapter"

# They say where an adapter comes from, steer its training, or choose layers (which the tensors show).
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "loftq_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "revision",
        "runtime_config",
        "target_modules",
        # Written by ms-swift beside PEFT's own.
        "lora_dtype",
        "lorap_emb_lr",
        "lorap_lr_ratio",
    }
)
# Off when empty or false; what they are, for the message.
_SWITCHES = {
    "use_dora": "DoRA",
    "use_qalora": "pooled inputs (use_qalora)",
    "lora_bias": "biases (lora_bias)",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained token embeddings (trainable_token_indices)",
    "layer_replication": "replicated layers (layer_replication)",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
    "target_parameters": "expert parameters (target_parameters)",
    "alora_invocation_tokens": "an activation token (alora_invocation_tokens)",
}
# Off only when null: PEFT takes an empty object as a configuration with all its defaults.
_VARIANTS = {
    "arrow_config": "a router over several adapters (arrow_config)",
    "kasa_config": "KaSA (kasa_config)",
    "megatron_config": "Megatron's parallel layers (megatron_config)",
    "monteclora_config": "Monte Carlo sampling (monteclora_config)",
    "use_bdlora": "block-diagonal matrices (use_bdlora)",
    "velora_config": "VeLoRA (velora_config)",
}
# Initialisations that leave the base weights alone, and those that put a part of them into the adapter.
_PURE_STARTS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_CONVERTIBLE = ("pissa", "olora", "corda", "lora_ga")


def read_adapter_config(path: Path, name: str) -> dict[str, Any]:
    """Return the configuration of the adapter in directory `path`; `name` is its module's name, for messages.

    Raises: ModuleError when it is none of PEFT's, or asks for what the engine does not compute.
    """
    if not (path / CONFIG_NAME).is_file() and (inner := sorted(path.glob(f"*/{CONFIG_NAME}"))):
        raise ModuleError(
            f"module {name!r} has no {CONFIG_NAME} in {path} but one in {inner[0].parent.name}/: point path at that "
            "directory"
        )
    config = read_json(path / CONFIG_NAME, "a PEFT adapter")
    check_adapter_config(config, name)
    return config


def check_adapter_config(config: Mapping[str, Any], name: str) -> None:
    """Raise ModuleError for the first field of an adapter's configuration that the engine would not honour."""
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise ModuleError(
            f"module {name!r} has peft_type {config.get('peft_type')!r}: only LoRA adapters can be served"
        )
    _check_scale(config, name)
    for field, value in config.items():
        if field not in _WITHOUT_EFFECT:
            _RULES.get(field, _judge_unknown)(field, value, config, name)
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets not in ("all-linear", "all"):
        raise ModuleError(
            f"module {name!r} has the pattern {targets!r} as target_modules, which the engine cannot read: "
            "write a list of layer names into its adapter_config.json"
        )
    if not isinstance(targets, str | list) or not targets or not all(isinstance(target, str) for target in targets):
        raise ModuleError(
            f"module {name!r} has target_modules = {targets!r}: write a list of layer names, such as "
            '["q_proj", "v_proj"], into its adapter_config.json'
        )


def selects(config: Mapping[str, Any], layer: str) -> bool:
    """Whether PEFT would change the linear layer named `layer` of the base model.

    Raises: ModuleError when a pattern in `config` is no regular expression.
    Source: `check_target_module_exists` in peft/tuners/tuners_utils.py.
    """
    try:
        if (excluded := config.get("exclude_modules")) and _is_named(excluded, layer):
            return False
        targets = config["target_modules"]
        if isinstance(targets, str):
            return targets == "all-linear" or _is_named(targets, layer)
        # A layer that is named in full is chosen whatever its number.
        return layer in targets or (_is_named(targets, layer) and _is_in_layers(config, layer))
    except (re.error, TypeError) as error:
        raise ModuleError(
            f"target_modules, exclude_modules, layers_pattern or layers_to_transform of the adapter cannot be read "
            f"({error}): write lists of layer names and numbers"
        ) from None


def _is_named(wanted: Any, layer: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in wanted)


def _is_in_layers(config: Mapping[str, Any], layer: str) -> bool:
    numbers, patterns = config.get("layers_to_transform"), config.get("layers_pattern")
    if numbers is None or numbers == []:
        return True
    # The first number of the name counts, never an expert's behind it.
    starts = [rf"(?:^|.*?\.){pattern}" for pattern in ([patterns] if isinstance(patterns, str) else patterns or ())]
    found = (re.match(rf"{start}\.(\d+)\.", layer) for start in starts or [r".*?\.[^.]*"])
    number = next((int(match[1]) for match in found if match), None)
    return number in (numbers if isinstance(numbers, list) else [numbers])


def _check_scale(config: Mapping[str, Any], name: str) -> None:
    # The engine takes both from the file and has no defaults for them.
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ModuleError(f"module {name!r} has r = {rank!r}: write its rank, a whole number, into {CONFIG_NAME}")
    # An integer may be larger than any float, which the engine makes of it.
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= sys.float_info.max:
        raise ModuleError(
            f"module {name!r} has lora_alpha = {short_repr(alpha)}: write the number that it was trained with into "
            f"{CONFIG_NAME}"
        )


def _refusal(name: str, meaning: str, fix: str = _PLAIN) -> ModuleError:
    return ModuleError(f"module {name!r} uses {meaning}, which the engine would ignore: {fix}")


def _judge_switch(field: str, value: Any, config: Mapping[str, Any], name: str) -> None:
    if value:
        raise _refusal(name, _SWITCHES[field])


def _judge_variant(field: str, value: Any, config: Mapping[str, Any], name: str) -> None:
    if value is not None and value is not False:
        raise _refusal(name, _VARIANTS[field])


def _judge_start(field: str, value: Any, config: Mapping[str, Any], name: str) -> None:
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in _PURE_STARTS):
        return
    start = str(value).lower()
    if not start.startswith(_CHANGED_BASE):
        raise ModuleError(
            f"module {name!r} has init_lora_weights = {value!r}, which this version does not know: if it leaves the "
            f"base weights as they are, write true into its {CONFIG_NAME}"
        )
    fix = "train it from an initialisation that leaves them alone (init_lora_weights = true)"
    if start.startswith(_CONVERTIBLE):
        fix = (
            "convert it with peft's save_pretrained(..., path_initial_model_for_weight_conversion=...), or train it "
            "with init_lora_weights = true"
        )
    raise ModuleError(
        f"module {name!r} has init_lora_weights = {value!r}: it belongs to base weights that PEFT changes when it "
        f"loads the adapter, and the prefill module's are not changed: {fix}"
    )


def _judge_rslora(field: str, value: Any, config: Mapping[str, Any], name: str) -> None:
    if value and config["r"] != 1:
        alpha = config["lora_alpha"] * math.sqrt(config["r"])
        raise _refusal(
            name,
            "rank-stabilised scaling (use_rslora)",
            f'write "use_rslora": false and "lora_alpha": {alpha!r} into its {CONFIG_NAME}, which is the same',
        )


def _judge_pattern(field: str, value: Any, config: Mapping[str, Any], name: str) -> None:
    usual, meaning = {
        "rank_pattern": ("r", "ranks per layer (rank_pattern)"),
        "alpha_pattern": ("lora_alpha", "scaling per layer (alpha_pattern)"),
    }[field]
    if value and (not isinstance(value, Mapping) or any(entry != config[usual] for entry in value.values())):
        raise _refusal(name, meaning)


def _judge_bias(field: str, value: Any, config: Mapping[str, Any], name: str) -> None:
    if value not in (None, "none"):
        raise ModuleError(
            f"module {name!r} trains biases (bias = {value!r}), which the engine would ignore: "
            'train it with bias = "none"'
        )


def _judge_task(field: str, value: Any, config: Mapping[str, Any], name: str) -> None:
    if value not in (None, "CAUSAL_LM"):
        raise ModuleError(
            f"module {name!r} has task_type {value!r}, and only text generation can be served: train it with "
            'task_type = "CAUSAL_LM"'
        )


def _judge_unknown(field: str, value: Any, config: Mapping[str, Any], name: str) -> None:
    if value:
        raise ModuleError(
            f"module {name!r} has {field} = {short_repr(value)} in its {CONFIG_NAME}, which this version does not know "
            "and the engine would ignore: if it changes nothing once training is over, remove it there"
        )


_RULES: dict[str, Callable[[str, Any, Mapping[str, Any], str], None]] = {
    **dict.fromkeys(_SWITCHES, _judge_switch),
    **dict.fromkeys(_VARIANTS, _judge_variant),
    "init_lora_weights": _judge_start,
    "use_rslora": _judge_rslora,
    "rank_pattern": _judge_pattern,
    "alpha_pattern": _judge_pattern,
    "bias": _judge_bias,
    "task_type": _judge_task,
}
