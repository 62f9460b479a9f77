"""What `prefillshare eval` does: ask a server, ask it through a harness, or decode a deployment's weights here."""

from prefillshare.cli.evaluate_options import EvaluateOptions
from prefillshare.cli.output import say
from prefillshare.cli.progress import show_count
from prefillshare.datafiles import summarise_left_out
from prefillshare.evaluation.base import Suite
from prefillshare.evaluation.driver import Score, score_served
from prefillshare.evaluation.suites.registry import load


def measure(options: EvaluateOptions, url: str) -> list[Score]:
    """One score per suite, or per filter of a harness's task; `url` is not asked where weights are given."""
    if options.harness is not None:
        return _ask_by_harness(options, url)
    suites = [
        load(
            name,
            directory=options.data,
            limit=options.limit,
            may_run_code=options.may_run_code,
            offers_tools=options.offers_tools,
        )
        for name in options.suites
    ]
    return [_ask(suite, options, url) for suite in suites] if options.weights is None else _decode(suites, options)


def _ask_by_harness(options: EvaluateOptions, url: str) -> list[Score]:
    from prefillshare.evaluation.harness import score_by_lm_eval

    return [
        score
        for suite in options.suites
        for score in score_by_lm_eval(
            suite,
            str(options.model),
            url,
            directory=options.data,
            api_key=options.api_key,
            limit=options.limit,
            concurrency=options.concurrency,
            num_examples=options.num_examples,
        )
    ]


def _ask(suite: Suite, options: EvaluateOptions, url: str) -> Score:
    _say_left_out(suite)
    with show_count(suite.name, len(suite.questions)) as count:
        return score_served(
            suite,
            str(options.model),
            url.removesuffix("/v1"),
            api_key=options.api_key,
            concurrency=options.concurrency,
            on_answer=count,
        )


def _decode(suites: list[Suite], options: EvaluateOptions) -> list[Score]:
    from prefillshare.config import load_deployment
    from prefillshare.evaluation.weights import WeightsModel
    from prefillshare.modules.deployment import resolve

    assert options.weights is not None
    deployment = resolve(load_deployment(options.weights, options.changes))
    module = WeightsModel(deployment, str(options.model), sharing_ratio=options.sharing_ratio)
    scores = []
    for suite in suites:
        _say_left_out(suite)
        with show_count(suite.name, len(suite.questions)) as count:
            scores.append(module.score(suite, count))
    return scores


def _say_left_out(suite: Suite) -> None:
    if suite.left_out:
        say(f"{suite.name}: {summarise_left_out(suite.left_out)}")
