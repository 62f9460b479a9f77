"""A task's data as batches, with the base's KV beside them: computed once, read by every pass of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from random import Random

import torch
from torch import Tensor, nn

from prefillshare.training.attention import KvSink
from prefillshare.training.finetune.examples import Collator
from prefillshare.training.layout import NO_TARGET, Documents, Layout
from prefillshare.training.objective import loss_over, prefill_kv
from prefillshare.training.shard import WEIGHT_UNIT, Document

MIB = 2**20


@dataclass(slots=True)
class _Batch:
    layout: Layout
    sink: KvSink | None = None


class Material:
    """Batches of conversations in a fixed make-up: neighbours in length, so that little is padding."""

    def __init__(
        self, prefill: nn.Module, rows: Sequence[Sequence[Document]], *, size: int, packed: bool, cache_mib: int
    ) -> None:
        self._prefill, self._free_bytes = prefill, cache_mib * MIB
        device = next(prefill.parameters()).device
        examples = sorted((_documents(row) for row in rows), key=_num_tokens)
        collate = Collator(objective="cache-conditioned", packed=packed)
        groups = (examples[start : start + size] for start in range(0, len(examples), size))
        self._batches = [_Batch(_move(collate.layout(group), device)) for group in groups]
        self.num_rows = len(examples)

    def __len__(self) -> int:
        return len(self._batches)

    def order(self, epoch: int, seed: int) -> list[int]:
        """Batch numbers in the order of an epoch."""
        numbers = list(range(len(self)))
        Random(f"grow-{seed}-{epoch}").shuffle(numbers)
        return numbers

    def loss(self, model: nn.Module, number: int) -> Tensor:
        """Mean loss per answer token of one batch."""
        layout = self._batches[number].layout
        return loss_over(model, layout, self._kv(number)) / layout.weights.sum()

    def is_query(self, number: int) -> Tensor:
        """Which places of the decode module's pass over one batch are no padding [B, Q]."""
        return self._batches[number].layout.labels != NO_TARGET

    @torch.no_grad()
    def mean_loss(self, model: nn.Module, num_batches: int | None = None) -> float:
        """Mean loss per answer token of all batches, or of some that are spread over them."""
        total = weight = 0.0
        for number in self._spread(num_batches or len(self)):
            layout = self._batches[number].layout
            total += float(loss_over(model, layout, self._kv(number)))
            weight += float(layout.weights.sum())
        return total / weight

    def _spread(self, num_batches: int) -> Iterator[int]:
        yield from range(0, len(self), max(1, len(self) // num_batches))

    def _kv(self, number: int) -> KvSink:
        batch = self._batches[number]
        if batch.sink is not None:
            return batch.sink
        sink = prefill_kv(self._prefill, batch.layout)
        size = sum(keys.nbytes + values.nbytes for keys, values in sink.layers.values())
        if size <= self._free_bytes:
            self._free_bytes -= size
            batch.sink = sink
        return sink


def _documents(row: Sequence[Document]) -> Documents:
    # Weights are stored in hundredths by every other way into training; here they are as they were given.
    return [
        (document.tokens, [round(weight * WEIGHT_UNIT) / WEIGHT_UNIT for weight in document.weights])
        for document in row
    ]


def _num_tokens(example: Documents) -> int:
    return sum(len(tokens) for tokens, _ in example)


def _move(layout: Layout, device: torch.device) -> Layout:
    values = {item.name: getattr(layout, item.name) for item in fields(layout)}
    return Layout(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in values.items()})
