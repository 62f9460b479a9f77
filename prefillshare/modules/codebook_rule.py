"""Modules of 2-bit codebook weights: where they can stand, which is as decode modules, and whether they are whole."""

import os
from pathlib import Path

from prefillshare.codebook.kernels.layout import KERNEL_VARIABLE
from prefillshare.codebook.section import codebook_shape
from prefillshare.codebook.shape import CodebookShape
from prefillshare.errors import ModuleError
from prefillshare.modules.fingerprint import TensorEntry, tensor_entries, weight_files


def refuse_as_base(path: Path, name: str, use: str) -> None:
    """Refuse a module of codebook weights where others build on what it computes exactly.

    Raises: ModuleError.
    """
    if codebook_shape(path) is not None:
        raise ModuleError(
            f"{name!r} in {path} has 2-bit codebook weights and cannot be {use}: all modules read the KV that the base "
            "makes, and were trained on that of its full weights; name the base with full weights"
        )


def refuse_on_gpu(path: Path, name: str) -> None:
    """Refuse a module of codebook weights on a GPU, where its kernels were not run yet, unless the user asks for them.

    Raises: ModuleError.
    """
    if codebook_shape(path) is not None and os.environ.get(KERNEL_VARIABLE) != "triton":
        raise ModuleError(
            f"decode module {name!r} in {path} has 2-bit codebook weights, whose kernels for GPUs were not run on one "
            'yet: point path at the module that it was made from, set device = "cpu" under [engine], or try them with '
            f"{KERNEL_VARIABLE}=triton in the environment of launch"
        )


def check_whole(path: Path, name: str) -> None:
    """Refuse codebook weights whose tensors are not what config.json says of them; nothing for other modules.

    An engine would end in the middle of loading them.
    Raises: ModuleError.
    """
    shape = codebook_shape(path)
    if shape is None:
        return
    entries = {entry.name: entry for entry in tensor_entries(weight_files(path))}
    for layer in (entry.removesuffix(".codes") for entry in entries if entry.endswith(".codes")):
        found = {part: entries.get(f"{layer}.{part}") for part in ("codes", "codebooks", "scales")}
        if (wrong := _first_wrong(found, shape)) is not None:
            part, sizes = wrong
            raise ModuleError(
                f"decode module {name!r} in {path} has {part} of {layer} {sizes}, which config.json (m = "
                f"{shape.num_codebooks}, b = {shape.code_bits}, v = {shape.segment}, g = {shape.group}) does not say: "
                "quantise the module again"
            )


def _first_wrong(found: dict[str, TensorEntry | None], shape: CodebookShape) -> tuple[str, str] | None:
    """The part of a layer that is missing or of other sizes, and what was found of it."""
    codes = found["codes"]
    assert codes is not None, "layers are found by their codes"
    num_outputs, num_segments = codes.shape[0], codes.shape[1]
    num_groups = num_segments * shape.segment // shape.group
    wanted = {
        "codes": (num_outputs, num_groups * shape.group // shape.segment, shape.num_codebooks),
        "codebooks": (shape.num_codebooks, shape.num_entries, shape.segment),
        "scales": (num_outputs, num_groups),
    }
    for part, sizes in wanted.items():
        entry = found[part]
        if entry is None or entry.shape != sizes:
            return part, "missing" if entry is None else "x".join(map(str, entry.shape))
    return None
