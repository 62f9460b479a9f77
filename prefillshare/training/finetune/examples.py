"""Tokenised examples on disk, as the trainer reads them: an example is a row's documents, so they share a pass."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
from torch.utils.data import Sampler

from prefillshare.errors import TrainingError
from prefillshare.training.layout import Documents, Layout, lay_out, lay_out_all_base, lay_out_ordinary
from prefillshare.training.shard import DAMAGES, WEIGHT_UNIT, Document, Shard, read_shard, write_shard


class Examples(Sequence[Documents]):
    """Documents of a run, grouped by the row that they came from."""

    def __init__(self, shard: Shard, starts: np.ndarray) -> None:
        self.shard, self._starts = shard, starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Documents:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        span = range(self._starts[index], self._starts[index + 1])
        documents = [self.shard.document(number) for number in span]
        return [(tokens.astype(np.int64), weights / WEIGHT_UNIT) for tokens, weights in documents]


def write_examples(directory: Path, name: str, rows: Sequence[Sequence[Document]]) -> Examples:
    """Store the documents of each row under `directory`.

    Effects: writes NAME.npz and NAME-rows.npy.
    """
    starts = np.cumsum([0, *(len(row) for row in rows)])
    shard = write_shard(directory / f"{name}.npz", (document for row in rows for document in row))
    np.save(directory / f"{name}-rows.npy", starts)
    return Examples(shard, starts)


def read_examples(directory: Path, name: str) -> Examples:
    """Read what `write_examples` stored.

    Raises: TrainingError when it is missing or broken.
    """
    advice = "start the run again in another output"
    shard, rows = read_shard(directory / f"{name}.npz", advice), directory / f"{name}-rows.npy"
    try:
        return Examples(shard, np.load(rows))
    except DAMAGES as error:
        raise TrainingError(f"{rows} cannot be read ({error}): {advice}") from None


class SeededOrder(Sampler[int]):
    """A new order of the examples in each epoch, which depends on seed and epoch alone.

    However many processes share them, and wherever a run goes on, every step sees the same examples.
    """

    def __init__(self, num_examples: int, seed: int) -> None:
        self._num_examples, self._seed, self.epoch = num_examples, seed, 0

    def __len__(self) -> int:
        return self._num_examples

    def __iter__(self) -> Iterator[int]:
        order = list(range(self._num_examples))
        Random(f"order-{self._seed}-{self.epoch}").shuffle(order)
        return iter(order)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch


class Collator:
    """Examples into one layout."""

    def __init__(self, *, objective: str, packed: bool, sharing_ratio: float = 1.0) -> None:
        self._objective, self._packed, self._sharing_ratio = objective, packed, sharing_ratio

    def __call__(self, examples: Sequence[Documents]) -> dict[str, object]:
        return self.layout(examples).as_dict()

    def documents(self, examples: Sequence[Documents]) -> Documents:
        """All documents, in the order in which they are laid out."""
        return [document for example in examples for document in example]

    def layout(self, examples: Sequence[Documents]) -> Layout:
        documents = self.documents(examples)
        if self._objective == "full-ft":
            return lay_out_ordinary(documents, packed=self._packed)
        if self._objective == "icarus":
            return lay_out_all_base(documents, packed=self._packed)
        return lay_out(documents, packed=self._packed, sharing_ratio=self._sharing_ratio)
