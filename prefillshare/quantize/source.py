"""Weights to quantise, tensor by tensor: those of a checkpoint, with an adapter added where there is one."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.codebook.section import SHARED_INPUT
from prefillshare.errors import ModuleError
from prefillshare.modules.fingerprint import TensorEntry, read_json, read_model_config, tensor_entries, weight_files

if TYPE_CHECKING:
    from torch import Tensor


_PLAIN_TYPES = ("F32", "F16", "BF16")


class WeightSource:
    """A decode module's weights, none of them in memory."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        """`base` is the module itself, or the base of its `adapter`.

        Raises: ModuleError when files are missing.
        """
        self.base, self.adapter = base, adapter
        self.num_layers = int(read_model_config(base)["num_hidden_layers"])
        self._entries: dict[str, TensorEntry] = {entry.name: entry for entry in tensor_entries(weight_files(base))}
        self._factor = 0.0 if adapter is None else _adapter_factor(adapter)

    def linear_groups(self, layer: int) -> list[list[str]]:
        """Names of a layer's linear modules; those in one list read the same input.

        Raises: ModuleError when the layer has not all of them.
        """
        groups = [[f"model.layers.{layer}.{name}" for name in names] for names in SHARED_INPUT]
        for name in (f"{name}.weight" for names in groups for name in names):
            if name not in self._entries:
                raise ModuleError(
                    f"{self.base} has no tensor {name}: models are quantised whose layers are those of Llama and Qwen3"
                )
        return groups

    def names(self) -> list[str]:
        """Names of all tensors."""
        return [*self._entries]

    def other_names(self, layer: int | None) -> list[str]:
        """Names of the tensors of a layer, or outside of all layers, that are kept as they are."""
        linear = {
            f"{name}.weight" for names in (self.linear_groups(layer) if layer is not None else []) for name in names
        }
        return [name for name in self._entries if _layer_of(name) == layer and name not in linear]

    def size(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor."""
        return self._entries[name].shape

    def stored_bytes(self, name: str) -> int:
        """Bytes of a tensor as it lies on disk."""
        return self._entries[name].end - self._entries[name].start

    def num_values(self, name: str) -> int:
        """Numbers of a tensor."""
        return math.prod(self.size(name))

    def read(self, name: str) -> "Tensor":
        """A tensor, with its part of the adapter added in float32.

        Raises: ModuleError when it holds infinities or no numbers: every output behind it would.
        """
        tensor = _read(self._entries[name].file, name)
        if self.adapter is not None and name.endswith("_proj.weight"):
            tensor = self._add_adapter(tensor, f"base_model.model.{name.removesuffix('.weight')}")
        if not tensor.isfinite().all():
            raise ModuleError(
                f"{self.adapter or self.base} has infinities or NaN in {name}: take a checkpoint from before its "
                "training went astray"
            )
        return tensor

    def check_stored(self) -> None:
        """Refuse weights that are numbers only with scales that stand elsewhere.

        Raises: ModuleError.
        """
        method = (read_model_config(self.base).get("quantization_config") or {}).get("quant_method")
        strange = [entry for entry in self._entries.values() if entry.dtype not in _PLAIN_TYPES]
        if method is not None or strange:
            found = repr(method) if method is not None else f"{strange[0].name} is stored as {strange[0].dtype}"
            raise ModuleError(
                f"{self.base} is quantised already ({found}): name a module whose weights are float32, float16 or "
                "bfloat16"
            )

    def _add_adapter(self, weight: "Tensor", prefix: str) -> "Tensor":
        from safetensors import safe_open

        assert self.adapter is not None
        with safe_open(self.adapter / "adapter_model.safetensors", framework="pt") as tensors:
            if f"{prefix}.lora_A.weight" not in tensors.keys():  # noqa: SIM118 - it is no mapping
                return weight
            a, b = (tensors.get_tensor(f"{prefix}.lora_{side}.weight").float() for side in "AB")
        changed: Tensor = weight.float() + (b @ a) * self._factor
        return changed


def _read(file: Path, name: str) -> "Tensor":
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        tensor: Tensor = tensors.get_tensor(name)
        return tensor


def _layer_of(name: str) -> int | None:
    rest = name.removeprefix("model.layers.")
    return None if rest == name else int(rest.partition(".")[0])


def _adapter_factor(adapter: Path) -> float:
    config: dict[str, Any] = read_json(adapter / "adapter_config.json", "a LoRA adapter")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ModuleError(f"{adapter} has ranks of its own for some layers: merge it with `prefillshare models merge`")
    rank = config["r"] ** 0.5 if config.get("use_rslora") else config["r"]
    return float(config["lora_alpha"] / rank)
