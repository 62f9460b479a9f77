"""`prefillshare eval`: accuracy of a served model on the field's suites, and two results compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefillshare.cli.server_options import ApiKey, Url, server_url
from prefillshare.cli.text import text_option

if TYPE_CHECKING:
    from prefillshare.evaluation.driver import Score


def evaluate(
    suites: Annotated[
        list[str] | None,
        typer.Argument(help="gsm8k, gsm-plus, humaneval, humaneval+, bfcl-simple, bfcl-multiple, or a tiny suite."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model to ask.", callback=text_option)] = None,
    url: Url = None,
    api_key: ApiKey = None,
    weights: Annotated[
        Path | None, typer.Option(help="Deployment file: decode its modules here instead of asking a server.")
    ] = None,
    sharing_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="With --weights: part of each prompt whose KV is the prefill module's.")
    ] = 1.0,
    data: Annotated[
        Path | None, typer.Option(help="Directory of the suites' files.", envvar="PREFILLSHARE_DATA")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first problems of each suite.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions asked at the same time.")] = 16,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Run what the model wrote, in a process with limits.")
    ] = False,
    tools: Annotated[
        bool, typer.Option("--tools", help="bfcl: offer the functions through the API instead of in the prompt.")
    ] = False,
    harness: Annotated[
        str | None, typer.Option(help="lm-eval: let that harness prompt and judge (gsm8k), as published figures do.")
    ] = None,
    few_shot: Annotated[
        int | None, typer.Option(min=0, help="With --harness: worked examples before each question.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for every question and answer, as JSON.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Compare two files of --out instead, question by question.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure a model behind any OpenAI-compatible URL, or from its weights; greedy, one answer per question."""
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    _check(suites, model, out)
    _check_sharing(weights, sharing_ratio)
    _check_harness(harness, few_shot, weights)
    from prefillshare.evaluation.suites.registry import load

    address = server_url(url) if weights is None else ""
    if harness is not None:
        scores = _ask_by_harness(
            suites or [],
            str(model),
            address,
            directory=data,
            api_key=api_key,
            limit=limit,
            concurrency=concurrency,
            num_examples=few_shot,
        )
    else:
        loaded = [
            load(name, directory=data, limit=limit, may_run_code=allow_code_execution, offers_tools=tools)
            for name in suites or []
        ]
        if weights is None:
            scores = [_ask(suite, str(model), address, api_key, concurrency) for suite in loaded]
        else:
            scores = _decode(loaded, str(model), weights, sharing_ratio)
    _show(scores, as_json=as_json)
    if out:
        origin = {"url": address} if weights is None else {"weights": str(weights), "sharing_ratio": sharing_ratio}
        _store(scores, str(model), origin, out)


def _check(suites: list[str] | None, model: str | None, out: Path | None) -> None:
    from prefillshare.errors import EvaluationError

    if not suites or model is None:
        missing = "suite" if not suites else "model"
        raise EvaluationError(f"no {missing} is given: prefillshare eval gsm8k --model NAME --url URL")
    if out is not None and not out.parent.is_dir():
        raise EvaluationError(f"--out {out} cannot be written: create {out.parent} first")
    if out is not None and out.exists():
        raise EvaluationError(f"--out {out} exists: give another name, or remove it first")


def _check_sharing(weights: Path | None, sharing_ratio: float) -> None:
    from prefillshare.errors import EvaluationError

    if weights is None and sharing_ratio != 1:
        raise EvaluationError(f"--sharing-ratio {sharing_ratio} is for --weights: a server shares whole prompts")


def _check_harness(harness: str | None, few_shot: int | None, weights: Path | None) -> None:
    from prefillshare.errors import EvaluationError

    if harness not in (None, "lm-eval"):
        raise EvaluationError(f"there is no harness {harness!r}: give --harness lm-eval, or leave it out")
    if harness is None and few_shot is not None:
        raise EvaluationError(f"--few-shot {few_shot} is for --harness lm-eval: the other prompts hold no examples")
    if harness is not None and weights is not None:
        raise EvaluationError("--harness lm-eval asks a server: leave --weights out, or --harness")


def _ask_by_harness(suites: list[str], model: str, url: str, **settings: Any) -> "list[Score]":
    from prefillshare.evaluation.harness import score_by_lm_eval

    return [score for suite in suites for score in score_by_lm_eval(suite, model, url, **settings)]


def _ask(suite: Any, model: str, url: str, api_key: str | None, concurrency: int) -> "Score":
    from prefillshare.cli.evaluate_tiny import counter
    from prefillshare.evaluation.driver import score_served

    _say_left_out(suite)
    with counter(suite.name, len(suite.questions)) as count:
        return score_served(
            suite, model, url.removesuffix("/v1"), api_key=api_key, concurrency=concurrency, on_answer=count
        )


def _say_left_out(suite: Any) -> None:
    from prefillshare.cli.output import say
    from prefillshare.datafiles import summary

    if left_out := getattr(suite, "left_out", ()):
        say(f"{suite.name}: {summary(left_out)}")


def _decode(suites: list[Any], model: str, weights: Path, sharing_ratio: float) -> "list[Score]":
    from prefillshare.cli.evaluate_tiny import counter
    from prefillshare.config import load_deployment
    from prefillshare.evaluation.weights import WeightsModel
    from prefillshare.modules.deployment import resolve

    module = WeightsModel(resolve(load_deployment(weights)), model, sharing_ratio=sharing_ratio)
    scores = []
    for suite in suites:
        _say_left_out(suite)
        with counter(suite.name, len(suite.questions)) as count:
            scores.append(module.score(suite, count))
    return scores


def _show(scores: "list[Score]", *, as_json: bool) -> None:
    from prefillshare.cli.output import put_json, put_table

    if as_json:
        put_json(
            [{key: figures[key] for key in figures if key != "samples"} for figures in (s.as_dict() for s in scores)]
        )
        return
    rows = [
        (
            score.suite,
            score.model,
            f"{score.accuracy:.1%}",
            f"{score.num_right}/{len(score.samples)}",
            "{:.1%} to {:.1%}".format(*score.interval),
        )
        for score in scores
    ]
    put_table(("suite", "model", "accuracy", "right", "95 % interval"), rows)


def _store(scores: "list[Score]", model: str, origin: dict[str, Any], out: Path) -> None:
    import json
    import shlex
    from datetime import UTC, datetime

    from prefillshare.cli.output import say

    content = {
        "model": model,
        **origin,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "scores": [score.as_dict() for score in scores],
    }
    out.write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
    )
    say(f"every answer: {out}; compare it with: prefillshare eval --compare {shlex.quote(str(out))} OTHER")


def _compare(first: Path, second: Path, *, as_json: bool) -> None:
    from prefillshare.cli.output import put_json, put_table
    from prefillshare.evaluation.compare import compare_files

    found = compare_files(first, second)
    if as_json:
        put_json([comparison.as_dict() for comparison in found])
        return
    rows = [
        (
            comparison.suite,
            *(f"{right / comparison.num_questions:.1%}" for right in comparison.num_right),
            f"{comparison.only_first} : {comparison.only_second}",
            f"{comparison.p_value:.3g}",
        )
        for comparison in found
    ]
    put_table(("suite", str(first), str(second), "only one right", "p (McNemar, exact)"), rows)
