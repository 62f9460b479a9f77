"""What each module of the family has to say, by the rule that it was made for."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import AutoTokenizer

from tests.fidelity.icarus_family import ORDINARY, PAIRED, TINY
from tests.support.engines import Answer
from tests.support.reference import Continuation, Reference
from tests.support.scores import Score

LOGPROB_TOLERANCE = 1e-4

Prompt = tuple[int, ...]
Asked = tuple[Prompt, str | None]


class Rules:
    """The reference computations of both rules, each done once."""

    def __init__(self, family: Path) -> None:
        paths = {"math": TINY / "math"} | {name: family / name for name in (*ORDINARY, *PAIRED) if name != "math"}
        self.reference = Reference(TINY / "base", paths)
        self.tokenizer = AutoTokenizer.from_pretrained(TINY / "base")
        self.ordinary = cache(self.reference.ask)
        self.scores = cache(self.reference.scores_over_base)

    def judge(self, pair: Asked, tokens: Sequence[int]) -> Continuation:
        """The right tokens in the place of `tokens`: equal to them when an answer is right."""
        prompt, module = pair
        if module not in PAIRED:
            return self.ordinary(module, prompt, len(tokens), tuple(tokens))
        scores = self.scores(module, prompt, tuple(tokens))
        best = scores.max(dim=-1)
        return Continuation(tokens=best.indices.tolist(), logprobs=best.values.tolist())

    def check(self, asked: Sequence[Asked], answers: Sequence[Answer], score: Score) -> None:
        """Count exact answers; report the first that are not."""
        wrong = []
        for pair, answer in zip(asked, answers, strict=True):
            want = self.judge(pair, answer.tokens)
            score.total += 1
            score.exact += answer.tokens == want.tokens
            if answer.tokens != want.tokens:
                wrong.append((pair[1], len(pair[0]), answer.cached_tokens, answer.tokens, want.tokens))
            difference = abs(answer.first_logprob - want.logprobs[0])
            score.largest_logprob_difference = max(score.largest_logprob_difference, difference)
        assert not wrong, f"{len(wrong)} of {score.total} differ; (module, prompt, cached, got, want): {wrong[:3]}"


def greedy_with_penalty(scores: torch.Tensor, answer: Sequence[int], penalty: float) -> list[int]:
    """The best token in each place when each earlier one of the answer has lost `penalty` per time it was said."""
    best = []
    for place, row in enumerate(scores):
        heard = torch.tensor(answer[:place], dtype=torch.int64)
        best.append(int((row - penalty * torch.bincount(heard, minlength=len(row))).argmax()))
    return best
