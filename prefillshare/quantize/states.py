"""Hidden states of all rows between two decoder layers, on disk: what tuning layer by layer goes on from.

STATES/before-00003/00017.safetensors   row 17 in front of layer 3
    base   [1, T, hidden]   the prefill module's tokens, by the prefill module
    full   [1, Q, hidden]   the decode module's queries, by its full weights
    coded  [1, Q, hidden]   the same by its codebooks
STATES/behind/00017.safetensors         row 17 behind that layer, by full weights
    base, full              as above
    keys, values            the prefill module's KV of the layer, where there is any

A directory that has its name is whole. The one of the next layer takes its name before the older one goes.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from prefillshare.training.attention import KvSink

Row = dict[str, Tensor]


class States:
    """Hidden states of a run's rows."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def layer(self) -> int | None:
        """The layer that they are in front of; None when there are none."""
        found = sorted(self._directory.glob("before-*"))
        return int(found[-1].name.partition("-")[2]) if found else None

    def write(self, layer: int, num_rows: int, row_of: Callable[[int], Row]) -> None:
        """Write the rows in front of a layer.

        Effects: they appear whole; then all older ones are removed.
        """
        older = [*self._directory.glob("before-*"), self._directory / "behind"]
        self._write_whole(f"before-{layer:05}", num_rows, row_of)
        for directory in older:
            shutil.rmtree(directory, ignore_errors=True)

    def write_behind(self, num_rows: int, row_of: Callable[[int], Row]) -> None:
        """Write the rows behind the layer, unless they are there."""
        if not (self._directory / "behind").exists():
            self._write_whole("behind", num_rows, row_of)

    def before(self, row: int) -> Row:
        """A row in front of the layer."""
        return load_file(self._directory / f"before-{self.layer():05}" / f"{row:05}.safetensors")

    def behind(self, row: int) -> Row:
        """A row behind the layer."""
        return load_file(self._directory / "behind" / f"{row:05}.safetensors")

    def remove(self) -> None:
        """Effects: removes all of them."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _write_whole(self, name: str, num_rows: int, row_of: Callable[[int], Row]) -> None:
        partial = self._directory / f"partial-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for row in range(num_rows):
            tensors = {name: tensor.contiguous() for name, tensor in row_of(row).items()}
            save_file(tensors, partial / f"{row:05}.safetensors")
        partial.rename(self._directory / name)


def with_kv(states: Row, sink: KvSink) -> Row:
    """A row behind a layer with the layer's KV."""
    return states | ({"keys": sink.layers[0][0], "values": sink.layers[0][1]} if sink.layers else {})


def kv_of(row: Row) -> KvSink:
    """The KV in a row behind a layer."""
    sink = KvSink()
    if "keys" in row:
        sink.put(0, row["keys"], row["values"])
    return sink
