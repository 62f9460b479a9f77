"""The type in which weights and KV are served: named once, for every worker of a deployment alike.

Without a choice in the file it follows from the device. Small models are exact, and not slower, in float32 on a CPU; on
a GPU SGLang has kernels for the 16-bit types only.
"""

from pathlib import Path
from typing import Literal

from prefillshare.config.schema import Engine
from prefillshare.modules.fingerprint import TensorEntry, read_model_config

Dtype = Literal["float32", "bfloat16", "float16"]
_VALUE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOATS = {"F64", "F32", "F16", "BF16"}


def served_dtype(engine: Engine, prefill_path: Path, *, on_cpu: bool) -> Dtype:
    """Return the type for all modules: the file's, else float32 on a CPU and the prefill module's own elsewhere.

    Source: for checkpoints in float32, `_get_and_verify_dtype` in sglang/srt/configs/model_config.py at 0.5.17.
    """
    if engine.dtype != "auto":
        return engine.dtype
    if on_cpu:
        return "float32"
    config = read_model_config(prefill_path)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    if stored == "bfloat16" or (stored != "float16" and str(config.get("model_type")).startswith("gemma")):
        return "bfloat16"
    return "float16"


def value_bytes(dtype: Dtype) -> int:
    """Return the bytes of one number."""
    return _VALUE_BYTES[dtype]


def served_bytes(entry: TensorEntry, dtype: Dtype) -> int:
    """Return the bytes of a tensor once it is loaded; quantised ones stay as they are."""
    if entry.dtype not in _FLOATS:
        return entry.end - entry.start
    count = 1
    for size in entry.shape:
        count *= size
    return count * value_bytes(dtype)
