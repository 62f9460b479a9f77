"""What was measured so far, kept in the run's directory, so that nothing is measured twice."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefillshare.modules.fingerprint import read_json

JUDGED = ("full", "k-means", "module")
"""What is measured: full weights, k-means alone, the finished module."""
_NAME = "measured.json"


@dataclass(slots=True, kw_only=True)
class Measured:
    """Figures by what was measured, one of JUDGED."""

    losses: dict[str, float] = field(default_factory=dict)
    """Mean loss of a token in held-out rows."""
    accuracies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Problems of the suite that were solved."""

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {"held_out_loss": dict(self.losses), "accuracy": dict(self.accuracies)}

    def write(self, run: Path) -> None:
        """Effects: the file appears whole or not at all."""
        partial = run / f"partial-{_NAME}"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        partial.rename(run / _NAME)


def read_measured(run: Path) -> Measured:
    """Return what an earlier call measured."""
    file = run / _NAME
    return Measured(**read_json(file, "a run of prefillshare quantize")) if file.exists() else Measured()
