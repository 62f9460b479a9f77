"""The files of an adapter's directory: what the engine would load of them, and what it would not look at.

The engine loads every `*.safetensors` file that `glob` finds there (or those of an index), while PEFT loads
adapter_model.safetensors alone. Its tokenizer and chat template are the prefill module's, whatever the adapter brings.

Source: `DefaultModelLoader._prepare_weights` in sglang/srt/model_loader/loader.py, `LoRAConfig` in
sglang/srt/lora/lora_config.py at 0.5.17.
"""

import glob
from pathlib import Path
from typing import Any

from prefillshare.errors import ModuleError, first_line
from prefillshare.modules.fingerprint import TensorEntry, chat_template, read_chunks, read_json, tensor_entries

WEIGHTS_NAME = "adapter_model.safetensors"
_INDEX_NAME = "model.safetensors.index.json"
# Bits of an exponent that is all ones: infinity or not a number. Keyed by safetensors' dtype: (bytes, mask).
_NOT_FINITE = {"F16": (2, 0x7C00), "BF16": (2, 0x7F80), "F32": (4, 0x7F800000), "F64": (8, 0x7FF0000000000000)}


def adapter_tensors(path: Path, name: str) -> list[TensorEntry]:
    """Return the tensors that the engine would load for the adapter in directory `path`, by name.

    Effects: reads the whole file.
    Raises: ModuleError when it would load others than PEFT does, or values that are no numbers.
    """
    file = path / WEIGHTS_NAME
    if not file.is_file():
        raise ModuleError(f"module {name!r} has no {file.name} in {path}: save the adapter in safetensors format")
    _check_loaded_files(path, name)
    _check_format(file, name)
    entries = tensor_entries([file])
    for entry in entries:
        _check_values(entry, name)
    return entries


def check_text_files(path: Path, base: Path, name: str) -> list[str]:
    """Compare the text files that an adapter brings with those of the prefill module in `base`; return warnings.

    Raises: ModuleError when it adds tokens to the vocabulary.
    """
    if added := _added_tokens(path, base):
        raise ModuleError(
            f"module {name!r} adds tokens to the vocabulary, such as {added[0]!r} in added_tokens.json: train it with "
            "the prefill module's tokenizer"
        )
    template = chat_template(path)
    if template and template != chat_template(base):
        return [
            f"decode module {name!r} brings another chat template than the prefill module has; all modules are "
            "served with the prefill module's: remove the adapter's when it was trained with that one"
        ]
    return []


def is_all_zero(entry: TensorEntry) -> bool:
    """Whether a tensor of an adapter holds nothing but zeros.

    Effects: reads it.
    """
    import numpy as np

    width, _ = _NOT_FINITE[entry.dtype]
    # Shifted by one bit, which is the sign: -0.0 is a zero, too.
    return not any(
        (np.frombuffer(chunk, f"<u{width}") << 1).any() for chunk in read_chunks(entry.file, entry.start, entry.end)
    )


def _check_loaded_files(path: Path, name: str) -> None:
    # The engine's own expression: it takes brackets in a path as a pattern, and skips hidden files.
    found = {Path(file) for file in glob.glob(str(path / "*.safetensors"))}
    if path / WEIGHTS_NAME not in found:
        raise ModuleError(
            f"module {name!r} is in {path}, and the engine takes *, ? and [ in a path as a pattern: rename the "
            "directory"
        )
    if others := sorted(file.name for file in found if file.name != WEIGHTS_NAME):
        raise ModuleError(
            f"module {name!r} has the weights {', '.join(others)} beside {WEIGHTS_NAME}, and the engine would load "
            f"them all: leave only {WEIGHTS_NAME} in {path}"
        )
    if (path / _INDEX_NAME).exists():
        raise ModuleError(
            f"module {name!r} has {_INDEX_NAME} beside {WEIGHTS_NAME}, and the engine would load what it lists: "
            f"remove it from {path}"
        )


def _check_format(file: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModuleError(
            f"module {name!r}: {file} is not a complete safetensors file ({first_line(error)}): save the adapter again"
        ) from None


def _check_values(entry: TensorEntry, name: str) -> None:
    if entry.dtype not in _NOT_FINITE:
        raise ModuleError(
            f"module {name!r} has the tensor {entry.name!r} in {entry.dtype}, which LoRA matrices cannot be: save it "
            "in float32, float16 or bfloat16"
        )
    import numpy as np

    width, mask = _NOT_FINITE[entry.dtype]
    for chunk in read_chunks(entry.file, entry.start, entry.end):
        if ((np.frombuffer(chunk, f"<u{width}") & mask) == mask).any():
            raise ModuleError(
                f"module {name!r} has values in {entry.name!r} that are not finite (infinite or not a number): its "
                "training diverged; use an earlier checkpoint"
            )


def _added_tokens(path: Path, base: Path) -> list[str]:
    """Tokens of added_tokens.json that the prefill module's tokenizer does not have under the same id."""
    file = path / "added_tokens.json"
    if not file.is_file():
        return []
    known = _vocabulary(base)
    return [token for token, number in read_json(file, "a PEFT adapter").items() if known.get(token) != number]


def _vocabulary(base: Path) -> dict[str, Any]:
    tokenizer = read_json(base / "tokenizer.json", "a checkpoint with its tokenizer")
    vocabulary = tokenizer.get("model", {}).get("vocab")
    # A unigram model lists pairs of token and score.
    known = vocabulary if isinstance(vocabulary, dict) else {entry[0]: i for i, entry in enumerate(vocabulary or [])}
    return {**known, **{entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens", [])}}
