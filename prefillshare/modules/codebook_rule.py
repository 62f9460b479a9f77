"""Where modules of 2-bit codebook weights can stand: as decode modules with full weights, on a CPU."""

from pathlib import Path

from prefillshare.codebook.section import codebook_shape
from prefillshare.errors import ModuleError


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
    """Refuse a module of codebook weights on a GPU, for which there is no kernel yet.

    Raises: ModuleError.
    """
    if codebook_shape(path) is not None:
        raise ModuleError(
            f"decode module {name!r} in {path} has 2-bit codebook weights, which are served on CPUs only: point path "
            'at the module that it was made from, or set device = "cpu" under [engine]'
        )
