"""How often a head is right on prompts that it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefillshare.training.router.solve import Array, Fit, mean_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was measured."""

    labels: tuple[str, ...]
    """Modules, in the order of the table."""
    confusion: tuple[tuple[int, ...], ...]
    """Prompts by the module that they are for (row) and the one that was chosen (column)."""
    loss: float
    """Mean negative log-probability of the right module."""

    @property
    def num_prompts(self) -> int:
        """Prompts that were tried."""
        return sum(map(sum, self.confusion))

    @property
    def num_right(self) -> int:
        """Of these, those whose module was chosen."""
        return sum(row[number] for number, row in enumerate(self.confusion))

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for scripts."""
        return {
            "num_prompts": self.num_prompts,
            "num_right": self.num_right,
            "accuracy": self.num_right / self.num_prompts,
            "loss": self.loss,
            "confusion": {
                label: dict(zip(self.labels, row, strict=True))
                for label, row in zip(self.labels, self.confusion, strict=True)
            },
            "recall": {label: _share(row[number], sum(row)) for number, label, row in self._rows()},
            "precision": {
                label: _share(row[number], sum(other[number] for other in self.confusion))
                for number, label, row in self._rows()
            },
        }

    def lines(self) -> list[str]:
        """Return the table for people."""
        share = self.num_right / self.num_prompts
        out = [f"held out  {self.num_right} of {self.num_prompts} right ({share:.1%}), loss {self.loss:.4f}"]
        width = max(10, *(len(label) + 2 for label in self.labels))
        out.append(
            "  for \\ chosen".ljust(width + 4) + "".join(label.rjust(width) for label in self.labels) + "   right"
        )
        for number, label, row in self._rows():
            counts = "".join(str(count).rjust(width) for count in row)
            out.append(f"  {label}".ljust(width + 4) + counts + f"{_share(row[number], sum(row)):8.1%}")
        return out

    def _rows(self) -> list[tuple[int, str, tuple[int, ...]]]:
        return [
            (number, label, row) for number, (label, row) in enumerate(zip(self.labels, self.confusion, strict=True))
        ]


def try_head(fit: Fit, states: Array, right: Array, labels: Sequence[str]) -> Trial:
    """Ask a head about prompts whose modules are known."""
    logits = fit.logits(states.astype(np.float64))
    table = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(table, (right, logits.argmax(axis=1)), 1)
    confusion = tuple(tuple(map(int, row)) for row in table)
    return Trial(labels=tuple(labels), confusion=confusion, loss=mean_loss(logits, right))


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0
