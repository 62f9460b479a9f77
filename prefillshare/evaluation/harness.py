"""GSM8K by EleutherAI's lm-eval: its prompts with worked examples, its API model, its filters and metric.

Figures are comparable with published ones that name the same harness, version and number of examples; those of the
suite `gsm8k` alone are not, since its prompt is ours.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from prefillshare.datafiles import require_text, summarise_left_out
from prefillshare.direct import except_from_proxies
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.driver import Sample, Score
from prefillshare.evaluation.suites.problem_file import data_file, problems_of
from prefillshare.serving.options import auth_header

PACKAGE = "lm-eval[api]==0.4.13"
TASKS = ("gsm8k",)
TIMEOUT_S = 300
log = logging.getLogger(__name__)


def score_by_lm_eval(
    task: str,
    model: str,
    url: str,
    *,
    directory: Path | None = None,
    api_key: str | None = None,
    limit: int | None = None,
    concurrency: int = 16,
    num_examples: int | None = None,
) -> list[Score]:
    """Ask a server through lm-eval; one score per filter of the task, in its order.

    `directory` (else $PREFILLSHARE_DATA) holds gsm8k_train.jsonl and gsm8k_test.jsonl; without either, they come from
    the hub. `num_examples` worked examples precede each question as chat turns; without it, as many as the task says.

    Raises: EvaluationError when lm-eval is not installed, does not know the task, or the server refuses a question.
    """
    if task not in TASKS:
        raise EvaluationError(
            f"suite {task} cannot be asked through lm-eval here: leave --harness out, or ask {TASKS[0]}"
        )
    files = _local_files(task, directory)
    evaluate, api_model = _lm_eval()
    except_from_proxies(url)
    asked = api_model(
        model=model,
        base_url=f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions",
        header={"Accept": "application/json"} | auth_header(api_key),
        num_concurrent=concurrency,
        timeout=TIMEOUT_S,
    )
    with _write_task(task, files) as spec, _refusals_as_errors(f"{model} at {url}"):
        found = evaluate(
            model=asked,
            tasks=[spec],
            num_fewshot=num_examples,
            limit=limit,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            bootstrap_iters=0,
        )
    return _scores(task, model, found["samples"][task])


@contextmanager
def _refusals_as_errors(asked: str) -> Iterator[None]:
    """Raises: EvaluationError for whatever ends lm-eval, in the server's words where it refused a question."""
    with _keep_warnings() as warnings:
        try:
            yield
        except Exception as error:
            refusals = [warning for warning in warnings if "API request failed" in warning]
            said = refusals[0] if refusals else f"{type(error).__name__}: {error}"
            raise EvaluationError(
                f"lm-eval gave up asking {asked}: {said[:600]} (prompts get shorter with a smaller --few-shot)"
            ) from error


def _local_files(task: str, directory: Path | None) -> dict[str, str]:
    """The file of each split; nothing where no directory is known."""
    files = {split: data_file(f"{task}_{split}.jsonl", directory) for split in ("train", "test")}
    known = {split: file.resolve() for split, file in files.items() if file is not None}
    for file in known.values():
        if not file.is_file():
            raise EvaluationError(f"{file} does not exist: put the suite's file there, or correct --data")
    return {split: str(file) for split, file in known.items()}


def _lm_eval() -> tuple[Any, Any]:
    """Its function that evaluates, and its model behind a chat API."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.openai_completions import LocalChatCompletion
    except ModuleNotFoundError as error:
        raise EvaluationError(f"--harness lm-eval needs a package: pip install '{PACKAGE}' ({error})") from error
    from datasets import disable_progress_bars

    disable_progress_bars()
    # The first refused question ends it; asyncio would print the traces of all others when the process ends.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    return simple_evaluate, LocalChatCompletion


@contextmanager
def _write_task(name: str, files: Mapping[str, str]) -> Iterator[str]:
    """Its name, or a file that says the same task with local data."""
    if not files:
        yield name
        return
    with tempfile.TemporaryDirectory() as temporary:
        usable = {split: _copy_usable(Path(file), Path(temporary)) for split, file in files.items()}
        spec = Path(temporary) / f"{name}.yaml"
        spec.write_text(json.dumps(_local_task(name, usable)), encoding="utf-8")
        yield str(spec)


def _copy_usable(file: Path, temporary: Path) -> str:
    """The file, or where rows of it cannot be used, a copy without them: lm-eval would end at the first."""
    rows, left_out = problems_of(file, _row)
    if not left_out:
        return str(file)
    log.warning("%s: %s", file, summarise_left_out(left_out))
    copy = temporary / file.name
    copy.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(copy)


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: require_text(row, key) for key in ("question", "answer")}


def _local_task(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "include": str(resources.files("lm_eval") / "tasks" / name / f"{name}.yaml"),
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": dict(files)},
    }


class _Keeper(logging.Handler):
    """Keeps messages."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())


@contextmanager
def _keep_warnings() -> Iterator[list[str]]:
    """Keep what lm-eval warns of, which says more than the exceptions that it raises."""
    logger, keeper = logging.getLogger("lm_eval"), _Keeper(logging.WARNING)
    propagated = logger.propagate
    logger.addHandler(keeper)
    logger.propagate = False
    try:
        yield keeper.kept
    finally:
        logger.removeHandler(keeper)
        logger.propagate = propagated


def _scores(task: str, model: str, samples: list[dict[str, Any]]) -> list[Score]:
    filters = dict.fromkeys(sample["filter"] for sample in samples)
    return [
        Score(
            suite=f"{task} (lm-eval, {name})",
            model=model,
            samples=tuple(_sample(sample) for sample in samples if sample["filter"] == name),
        )
        for name in filters
    ]


def _sample(found: dict[str, Any]) -> Sample:
    is_right = bool(found["exact_match"] == 1)
    taken, wanted = found["filtered_resps"][0], found["doc"]["answer"].rpartition("####")[2].strip()
    return Sample(
        question=found["doc"]["question"],
        reference=found["doc"]["answer"],
        answer=found["resps"][0][0],
        is_right=is_right,
        reason="" if is_right else f"{taken} instead of {wanted}",
    )
