"""A run that goes on from an adapter instead of a fresh one: one that was trained the ordinary way, say.

The new module has the shape of the old one, which is read and stays as it is.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.config.training import KV_PROJECTIONS, Lora, Training
from prefillshare.errors import TrainingError
from prefillshare.modules.adapter import Adapter, check_adapter_fits, read_adapter
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.manifest import read_manifest
from prefillshare.modules.unshared import adapter_kv_sha256
from prefillshare.training.distillation import TEACHER

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def with_shape_of_start(training: Training) -> Training:
    """The run with the shape of the adapter that it goes on from, if it does.

    Raises: ModuleError when that cannot be read; TrainingError when it has matrices that the objective has no use for.
    """
    if training.start is None:
        return training
    adapter = read_adapter(training.start, training.name)
    if training.objective == "icarus" and (useless := set(KV_PROJECTIONS) & set(adapter.target_modules)):
        raise TrainingError(
            f"the adapter in {training.start} changes {min(useless)}, which has no effect under objective "
            '"icarus", where keys and values are all the base\'s: go on with objective "cache-conditioned"'
        )
    shape = Lora(rank=adapter.rank, alpha=_alpha(adapter), targets=adapter.target_modules)
    return replace(training, lora=shape)


def check_start(training: Training, base: Path) -> None:
    """Raise ModuleError or TrainingError when the adapter that a run goes on from does not belong to its base."""
    if training.start is None:
        return
    check_adapter_fits(read_adapter(training.start, training.name), base, training.name, base.name)
    manifest = read_manifest(training.start)
    if manifest is not None and manifest.prefill_fingerprint != prefill_fingerprint(base):
        raise TrainingError(
            f"the adapter in {training.start} was trained on another base than the one in {base}: give that one"
        )
    if training.distillation is not None and manifest is not None and not manifest.answers_alone:
        raise TrainingError(
            f"the adapter in {training.start} was trained over shared KV, and knows less over KV of its own, where the "
            "run would learn from it: go on without [distillation] (adapt: with --no-distil)"
        )


def start_record(training: Training) -> dict[str, str]:
    """What the run goes on from, for its record; empty for a fresh adapter."""
    return {} if training.start is None else {"adapter_sha256": adapter_kv_sha256(training.start)}


def load_start(model: "PreTrainedModel", directory: Path, base_name: str) -> "PeftModel":
    """Wrap the model with the adapter in `directory`, trainable, in float32."""
    from peft import PeftModel

    model.name_or_path = base_name
    config = _read_config(directory, base_name)
    return PeftModel.from_pretrained(model, directory, config=config, is_trainable=True, autocast_adapter_dtype=True)


def add_teacher(model: "PeftModel", directory: Path, base_name: str) -> None:
    """Put the adapter in `directory` a second time beside the one that is trained, frozen, in float32."""
    model.add_adapter(TEACHER, _read_config(directory, base_name))
    model.load_adapter(directory, TEACHER, is_trainable=False)
    # PEFT decides about gradients by which adapter was added or chosen last.
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(f".{TEACHER}." not in name)


def _read_config(directory: Path, base_name: str) -> Any:
    from peft import LoraConfig

    config: Any = LoraConfig.from_pretrained(directory)
    config.lora_dropout, config.inference_mode, config.base_model_name_or_path = 0.0, False, base_name
    return config


def _alpha(adapter: Adapter) -> int:
    alpha = adapter.config["lora_alpha"]
    if alpha != int(alpha) or alpha < 1:
        raise TrainingError(
            f"the adapter in {adapter.path} has lora_alpha {alpha}: training goes on from whole numbers only"
        )
    return int(alpha)
