"""A sharing ratio for each conversation, so that one module answers well at any.

Drawn from a range by seed, epoch and conversation alone: a run that goes on, or that several processes share, sees what
an undisturbed one in one process sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from prefillshare.training.finetune.examples import Examples, SeededOrder
from prefillshare.training.layout import Documents, Layout, lay_out

SHARED_WHOLE = 0.75
"""Part of the conversations whose prompts are shared whole. That is what is served, and an even draw would never hit
it: with a few tokens less, the module already computes the end of the question itself. It is the hardest, too: with a
quarter and a half of the conversations instead, `math` of the tiny family had 93 and 95 % at 100 %, with three quarters
99 %, and 100 % of its answers right at 0 and 50 % each time."""

Drawn = tuple[int, float]
"""Number of an example, and its sharing ratio this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioRange:
    """What sharing ratios are drawn from; the highest is 1."""

    lowest: float
    """The lowest one."""
    seed: int
    """Of the run."""

    def draw(self, epoch: int, index: int) -> float:
        """The ratio of an example in an epoch."""
        random = Random(f"sharing-ratio-{self.seed}-{epoch}-{index}")
        if random.random() < SHARED_WHOLE:
            return 1.0
        return random.uniform(self.lowest, 1.0)


class RatioOrder(SeededOrder):
    """The order of examples of a run, with the ratio of each."""

    def __init__(self, num_examples: int, ratios: RatioRange) -> None:
        super().__init__(num_examples, ratios.seed)
        self._ratios = ratios

    def __iter__(self) -> Iterator[Drawn]:  # type: ignore[override]
        for index in super().__iter__():
            yield index, self._ratios.draw(self.epoch, index)


class RatioExamples(Sequence[tuple[Documents, float]]):
    """Examples that are asked for together with a ratio."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, drawn: Drawn) -> tuple[Documents, float]:  # type: ignore[override]
        index, ratio = drawn
        return self._examples[index], ratio


class RatioCollator:
    """Examples and their ratios into one layout."""

    def __init__(self, *, packed: bool) -> None:
        self._packed = packed

    def __call__(self, drawn: Sequence[tuple[Documents, float]]) -> dict[str, object]:
        return self.layout(drawn).as_dict()

    def documents(self, drawn: Sequence[tuple[Documents, float]]) -> Documents:
        """All documents, in the order in which they are laid out."""
        return [document for example, _ in drawn for document in example]

    def layout(self, drawn: Sequence[tuple[Documents, float]]) -> Layout:
        ratios = [ratio for example, ratio in drawn for _ in example]
        return lay_out(self.documents(drawn), packed=self._packed, sharing_ratio=ratios)
