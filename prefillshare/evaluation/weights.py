"""Answers of a deployment's modules in process, by the reference computation: no server, and any sharing ratio."""

from collections.abc import Callable
from typing import Any

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.base import Question, Suite
from prefillshare.evaluation.driver import Sample, Score, judge_answer
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule
from prefillshare.modules.manifest import KvRule

BATCH = 32
"""Most questions decoded at a time."""


class WeightsModel:
    """A decode module over the KV of its prefill module, or the prefill module itself."""

    def __init__(self, deployment: ResolvedDeployment, name: str, *, sharing_ratio: float | None = None) -> None:
        """Load the module `name`, on the GPU if there is one.

        `sharing_ratio` is the part of x_1..x_{n-1} whose KV is the prefill module's: None as served, which is all of
        it, and nothing for a module with `share = false`; 0 as an ordinary model.

        Raises: EvaluationError for an unknown name or a ratio that the module has no use for; TrainingError for an
        architecture whose KV cannot be shared.
        """
        from transformers import AutoTokenizer

        self.name = name
        module = _find(deployment, name)
        served_ratio = 1.0 if module is None else module.spec.sharing_ratio
        self._sharing_ratio = served_ratio if sharing_ratio is None else sharing_ratio
        self._kv_rule = _rule_of(module)
        if self._kv_rule == "all-base" and self._sharing_ratio != 1:
            raise EvaluationError(
                f"the sharing ratio is {self._sharing_ratio:g}, and module {name!r} has none, since all its KV is the "
                "prefill module's (kv_rule all-base): leave out --sharing-ratio"
            )
        self._tokenizer: Any = AutoTokenizer.from_pretrained(deployment.prefill_path)
        self._model, self._prefill = _load(deployment, module)
        self._ends = _end_tokens(self._tokenizer, self._model)

    def score(self, suite: Suite, on_answer: Callable[[], None] = lambda: None) -> Score:
        """Answer every question of the suite, greedily, and judge the answers."""
        prompts = [self._prompt(question) for question in suite.questions]
        samples: list[Sample | None] = [None] * len(prompts)
        # Prompts of like length share a batch, so that little is padding.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            answers = self._answer([prompts[index] for index in chosen], suite.max_new_tokens)
            for index, answer in zip(chosen, answers, strict=True):
                usage = {"prompt_tokens": len(prompts[index])}
                samples[index] = judge_answer(suite.questions[index], answer, usage)
                on_answer()
        return Score(suite=suite.name, model=self.name, samples=tuple(sample for sample in samples if sample))

    def _prompt(self, question: Question) -> list[int]:
        tokens: list[int] = self._tokenizer.apply_chat_template(
            list(question.messages), tools=list(question.tools) or None, add_generation_prompt=True
        )["input_ids"]
        return tokens

    def _answer(self, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
        from prefillshare.training.reference import decode

        answers = decode(
            self._model,
            prompts,
            max_new_tokens=max_new_tokens,
            end_token=self._ends,
            prefill_model=self._prefill,
            sharing_ratio=self._sharing_ratio,
            kv_rule=self._kv_rule,
        )
        return [self._tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]


def _find(deployment: ResolvedDeployment, name: str) -> ResolvedModule | None:
    """The decode module; None for the prefill module itself."""
    from prefillshare.config.tables import suggest_nearest

    if name == deployment.config.prefill.name:
        return None
    names = [module.spec.name for module in deployment.modules]
    if name not in names:
        known = [*names, deployment.config.prefill.name]
        raise EvaluationError(f"{deployment.config.name} has no module {name!r}: {suggest_nearest(name, known)}")
    return deployment.modules[names.index(name)]


def _rule_of(module: ResolvedModule | None) -> KvRule:
    return "own-answers" if module is None or module.manifest is None else module.manifest.kv_rule


def _load(deployment: ResolvedDeployment, module: ResolvedModule | None) -> tuple[Any, Any]:
    """The module, and its prefill module unless that is the same with its adapter off."""
    import torch

    from prefillshare.training.model import load_adapter, load_base

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, deployment.dtype)
    base: Any = load_base(deployment.prefill_path, dtype).to(device).eval()
    if module is None:
        return base, None
    if module.adapter is not None:
        return load_adapter(base, module.path).to(device).eval(), None
    full: Any = load_base(module.path, dtype)
    return full.to(device).eval(), base


def _end_tokens(tokenizer: Any, model: Any) -> set[int]:
    stated = model.generation_config.eos_token_id
    ends = {stated} if isinstance(stated, int) else set(stated or ())
    return ends | {tokenizer.eos_token_id}
