"""How often `auto` answers right through a server: the suites' problems, beside the module of the task by its name."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.classifier.deployment import serving_auto
from prefillshare.evaluation.suites.tiny import PREFIX, TinyQuestion, load_suite
from prefillshare.tiny.language.conversations import TASKS

CONCURRENCY = 8
_MAX_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Of one task's problems."""

    task: str
    num_problems: int
    num_chosen_right: int
    """Answers of `auto` that the module of the task has given."""
    num_auto_right: int
    """Right answers of `auto`."""
    num_named_right: int
    """Right answers of the module by its name."""
    num_same: int
    """Answers of `auto` that are the named module's, letter by letter."""


def measure_served(classifier: Path, topology: str, num_problems: int) -> Iterator[Served]:
    """Ask a deployment of the tiny family, several calls at a time."""
    with serving_auto(classifier, topology) as http, ThreadPoolExecutor(CONCURRENCY) as pool:
        for task in TASKS:
            questions = load_suite(f"{PREFIX}{task}", num_problems).questions
            # In turns, so that neither always finds what the other has computed.
            asked = [(model, question) for question in questions for model in ("auto", task)]
            answers = list(pool.map(lambda pair: _ask(http, *pair), asked))
            yield _compare(task, questions, answers[::2], answers[1::2])


def _compare(
    task: str, questions: Sequence[TinyQuestion], auto: Sequence[tuple[str, str]], named: Sequence[tuple[str, str]]
) -> Served:
    return Served(
        task=task,
        num_problems=len(questions),
        num_chosen_right=sum(model == task for model, _ in auto),
        num_auto_right=_num_right(questions, auto),
        num_named_right=_num_right(questions, named),
        num_same=sum(one[1] == other[1] for one, other in zip(auto, named, strict=True)),
    )


def _num_right(questions: Sequence[TinyQuestion], answers: Sequence[tuple[str, str]]) -> int:
    pairs = zip(questions, answers, strict=True)
    return sum(question.judge(text).is_right for question, (_, text) in pairs)


def _ask(http: httpx.Client, model: str, question: TinyQuestion) -> tuple[str, str]:
    """Return which module has answered, and what."""
    body = {"model": model, "messages": question.messages, "max_tokens": _MAX_TOKENS, "temperature": 0}
    reply = http.post("/v1/chat/completions", json=body)
    reply.raise_for_status()
    told = reply.json()
    return told["model"], told["choices"][0]["message"]["content"]
