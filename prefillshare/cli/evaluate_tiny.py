"""What `prefillshare models evaluate tiny` does: start what has to be asked, ask it, print and store the table."""

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefillshare.accelerators import gpus
from prefillshare.cli.output import put, say
from prefillshare.cli.progress import show_count
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.driver import Score, score_answers, score_served
from prefillshare.evaluation.suites.tiny import TinySuite, load_suite, suite_names
from prefillshare.evaluation.tiny_table import Row, markdown_table, write_between_markers
from prefillshare.serving.machine.host import num_cores

AGENTS_FILE = "tiny-agents.toml"
NAIVE_FILE = "tiny-naive.toml"
BASE_MODEL = "tiny-base"
SHARED_LABEL = "cache-conditioned modules, shared KV"
BASE_LABEL = "tiny-base alone"
NAIVE_LABEL = "naive sharing: ordinary LoRA on the base's KV"
OWN_LABEL = "the same ordinary LoRA with its own KV, nothing shared (in process)"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to measure, and where to put it."""

    url: str | None
    """A running server; None starts the deployments of `models_dir`."""
    api_key: str | None
    """Key of that server."""
    in_process: bool
    """Whether to decode with transformers instead."""
    json_out: Path | None
    """File for every sample."""
    num_problems: int
    """Problems per suite."""
    concurrency: int
    """Questions asked at the same time."""
    models_dir: Path
    """Directory with deployment files, weights and README.md."""
    writes_readme: bool
    """Whether the table goes into README.md."""


def evaluate(request: EvaluationRequest) -> None:
    """Measure, print the table, store it.

    Effects: may start and stop servers; writes `json_out` and README.md when asked to.
    """
    if request.url and request.in_process:
        raise EvaluationError("--url and --in-process exclude each other: give one of them")
    suites = [load_suite(name, request.num_problems) for name in suite_names()]
    rows = list(_measure_in_process(request, suites) if request.in_process else _measure_served(request, suites))
    table = markdown_table(rows)
    put(table)
    if request.json_out:
        content = [{"label": row.label, "scores": [score.as_dict() for score in row.scores]} for row in rows]
        request.json_out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        say(f"every answer: {request.json_out}")
    if request.writes_readme:
        write_between_markers(request.models_dir / "README.md", f"\n{table}\n\n{_describe_origin(request)}\n")


def _measure_served(request: EvaluationRequest, suites: list[TinySuite]) -> Iterator[Row]:
    with _serve(request, AGENTS_FILE) as url:
        yield _measure_served_row(SHARED_LABEL, suites, url, request, lambda suite: suite.task)
        yield _measure_served_row(BASE_LABEL, suites, url, request, lambda suite: BASE_MODEL)
    if request.url is None:
        with _serve(request, NAIVE_FILE) as url:
            yield _measure_served_row(NAIVE_LABEL, suites, url, request, lambda suite: suite.task)
        yield _measure_in_process_row(OWN_LABEL, request, suites)


@contextmanager
def _serve(request: EvaluationRequest, file: str) -> Iterator[str]:
    if request.url is not None:
        yield request.url
        return
    from prefillshare.serving.launch import running_deployment

    say(f"starting {request.models_dir / file}")
    with running_deployment(request.models_dir / file) as running:
        yield running.url


def _measure_served_row(
    label: str, suites: list[TinySuite], url: str, request: EvaluationRequest, model_of: Callable[[TinySuite], str]
) -> Row:
    scores = []
    for suite in suites:
        with show_count(f"{label}: {suite.name}", len(suite.questions)) as count:
            score = score_served(
                suite,
                model_of(suite),
                url,
                api_key=request.api_key,
                concurrency=request.concurrency,
                on_answer=count,
            )
        scores.append(_announce(label, score))
    return Row(label=label, scores=tuple(scores))


def _measure_in_process(request: EvaluationRequest, suites: list[TinySuite]) -> Iterator[Row]:
    for label in (SHARED_LABEL, BASE_LABEL, NAIVE_LABEL, OWN_LABEL):
        yield _measure_in_process_row(label, request, suites)


def _measure_in_process_row(label: str, request: EvaluationRequest, suites: list[TinySuite]) -> Row:
    scores = []
    for suite in suites:
        with show_count(f"{label}: {suite.name}", len(suite.questions)) as count:
            answers = _answer_in_process(label, suite, request.models_dir / "tiny", count)
        scores.append(_announce(label, score_answers(suite, suite.task, answers)))
    return Row(label=label, scores=tuple(scores))


def _answer_in_process(label: str, suite: TinySuite, tiny: Path, on_answer: Callable[[], None]) -> list[str]:
    from prefillshare.tiny.answers import TinyAnswers

    module = {SHARED_LABEL: suite.task, BASE_LABEL: None}.get(label, f"naive/{suite.task}")
    answers = TinyAnswers(tiny, module, sharing_ratio=0.0 if label == OWN_LABEL else 1.0)
    return answers.answer([list(question.messages) for question in suite.questions], on_answer)


def _announce(label: str, score: Score) -> Score:
    say(f"{label}: {score.suite} {score.num_right}/{len(score.samples)} = {score.accuracy:.1%}")
    return score


def _describe_origin(request: EvaluationRequest) -> str:
    how = " --in-process" if request.in_process else ""
    where = f"{platform.machine()}, GPU" if gpus() else f"{platform.machine()}, {num_cores()} cores, no GPU"
    return (
        f"Made by `prefillshare models evaluate tiny{how} --num-problems {request.num_problems} --readme` on "
        f"{datetime.now(UTC):%Y-%m-%d} ({where}). Greedy; in brackets right answers and the 95 % Wilson interval."
    )
