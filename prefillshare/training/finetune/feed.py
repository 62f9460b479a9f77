"""What a run is fed with: its examples, their order, and how some of them become layouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prefillshare.config.training import Training
from prefillshare.training.finetune.examples import Collator, Examples, SeededOrder
from prefillshare.training.finetune.ratios import RatioCollator, RatioExamples, RatioOrder, RatioRange
from prefillshare.training.layout import Documents, Layout, lay_out_ordinary

OWN_LAYOUT = "own_layout"
"""Under which name a collator hands over the layout for the adapter that is learned from."""


class AnyCollator(Protocol):
    """Some examples into one layout."""

    def __call__(self, examples: Any, /) -> dict[str, Any]: ...
    def documents(self, examples: Any, /) -> Documents: ...
    def layout(self, examples: Any, /) -> Layout: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What a data loader needs."""

    examples: Sequence[Any]
    """What the order's entries are looked up in."""
    order: SeededOrder
    """Which comes when."""
    collate: AnyCollator
    """Some of them into one layout."""


class TaughtCollator:
    """Lays documents out a second time, for the adapter that makes all KV itself."""

    def __init__(self, collate: AnyCollator, *, packed: bool) -> None:
        self._collate, self._packed = collate, packed
        self.documents, self.layout = collate.documents, collate.layout

    def __call__(self, examples: Any) -> dict[str, Any]:
        own = lay_out_ordinary(self.documents(examples), packed=self._packed)
        return {**self._collate(examples), OWN_LAYOUT: own.as_dict()}


def make_feed(training: Training, examples: Examples) -> Feed:
    """What the run is fed with, after its training file."""
    packed, ratios = training.batch.packed, ratio_range(training)
    if ratios is None:
        collate: AnyCollator = Collator(objective=training.objective, packed=packed)
        feed = Feed(examples=examples, order=SeededOrder(len(examples), training.seed), collate=collate)
    else:
        drawn = RatioExamples(examples)
        feed = Feed(examples=drawn, order=RatioOrder(len(examples), ratios), collate=RatioCollator(packed=packed))
    if training.distillation is None:
        return feed
    taught = TaughtCollator(feed.collate, packed=packed)
    return Feed(examples=feed.examples, order=feed.order, collate=taught)


def split_layouts(inputs: Mapping[str, Any]) -> tuple[Layout, Layout | None]:
    """The layouts in what a collator handed over: the module's, and that of the adapter that it learns from."""
    fields = dict(inputs)
    own = fields.pop(OWN_LAYOUT, None)
    return Layout(**fields), None if own is None else Layout(**own)


def ratio_range(training: Training) -> RatioRange | None:
    """What the run's sharing ratios are drawn from; None where every prompt is shared whole."""
    if training.sharing_ratio is None:
        return None
    return RatioRange(lowest=training.sharing_ratio[0], seed=training.seed)
