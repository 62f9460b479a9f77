"""What config.json says of codebook weights; read without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefillshare.codebook.shape import CodebookShape
from prefillshare.errors import ModuleError

QUANT_METHOD = "prefillshare-codebook"
FORMAT = 1
SHARED_INPUT = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""Linear layers of a decoder layer; those in one line read the same input and have the same codebooks."""

_NAMES = {"m": "num_codebooks", "b": "code_bits", "v": "segment", "g": "group"}


def quantization_section(shape: CodebookShape) -> dict[str, Any]:
    """Return what config.json says of the weights."""
    sizes = {letter: getattr(shape, name) for letter, name in _NAMES.items()}
    return {"quant_method": QUANT_METHOD, "format": FORMAT, **sizes}


def shape_of_section(section: Mapping[str, Any]) -> CodebookShape:
    """Return the shape that `quantization_config` names.

    Raises: ModuleError when it is of another version, or damaged.
    """
    if section.get("format") != FORMAT:
        raise ModuleError(
            f"codebook weights have format {section.get('format')!r} and this version reads {FORMAT}: "
            "update prefillshare, or quantise the module again"
        )
    sizes = {name: section.get(letter) for letter, name in _NAMES.items()}
    if not all(isinstance(size, int) for size in sizes.values()):
        raise ModuleError(f"quantization_config lacks one of {', '.join(_NAMES)}: quantise the module again")
    return CodebookShape(**sizes)  # type: ignore[arg-type]


def codebook_shape(directory: Path) -> CodebookShape | None:
    """Return how the weights in `directory` are cut up; None when they are plain.

    Raises: ModuleError when config.json cannot be read, or names a version that this one does not know.
    """
    file = directory / "config.json"
    try:
        section = json.loads(file.read_text(encoding="utf-8")).get("quantization_config") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise ModuleError(f"{file} cannot be read ({error}): build the module again") from None
    return shape_of_section(section) if section.get("quant_method") == QUANT_METHOD else None
