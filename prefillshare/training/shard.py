"""Token documents with one loss weight per token, stored as three arrays; the unit that runs read their data from.

A run's data is a deterministic function of its step, so a resumed run sees what it would have seen.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from prefillshare.errors import TrainingError

WEIGHT_UNIT = 100
DAMAGES = (OSError, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error)
"""What numpy raises of a file that is not there, was cut or was damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Tokens of one document."""

    tokens: Sequence[int]
    """Token ids."""
    weights: Sequence[float]
    """Weight of each token in the loss when it is the target, 0 to 1 in hundredths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """All documents of a run, in the order of training."""

    tokens: np.ndarray
    """All token ids one after the other; uint16, or uint32 for a vocabulary that needs it."""
    weights: np.ndarray
    """Loss weight of each token in hundredths; uint8."""
    starts: np.ndarray
    """Where each document starts, plus the end of the last; int64."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and weights (in hundredths) of one document."""
        span = slice(self.starts[index], self.starts[index + 1])
        return self.tokens[span], self.weights[span]

    def sha256(self) -> str:
        """Hash of the content."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.weights, self.starts):
            digest.update(np.ascontiguousarray(array).tobytes())
        return f"sha256:{digest.hexdigest()}"


def write_shard(path: Path, documents: Iterable[Document]) -> Shard:
    """Store documents under `path` (an .npz file) and return them.

    Effects: the file appears complete or not at all.
    """
    tokens: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for document in documents:
        tokens.append(np.asarray(document.tokens, dtype=np.uint32))
        weights.append(np.rint(np.asarray(document.weights) * WEIGHT_UNIT).astype(np.uint8))
    joined = np.concatenate(tokens)
    shard = Shard(
        tokens=joined if joined.max() > np.iinfo(np.uint16).max else joined.astype(np.uint16),
        weights=np.concatenate(weights),
        starts=np.concatenate(([0], np.cumsum([len(document) for document in tokens]))).astype(np.int64),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    np.savez(partial, tokens=shard.tokens, weights=shard.weights, starts=shard.starts)
    partial.rename(path)
    return shard


def read_shard(path: Path, advice: str = "build it again with --fresh") -> Shard:
    """Read what `write_shard` stored; `advice` is what helps where that cannot be.

    Raises: TrainingError when the file is missing or broken.
    """
    try:
        # Opened here: numpy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file) as arrays:
            return Shard(tokens=arrays["tokens"], weights=arrays["weights"], starts=arrays["starts"])
    except (*DAMAGES, KeyError) as error:
        raise TrainingError(f"training data {path} cannot be read ({error}): {advice}") from error
