"""`prefillshare eval`: accuracy of a served model on the field's suites, and two results compared."""

from typing import Annotated

import typer

from prefillshare.cli import evaluate_options as given
from prefillshare.cli.config_options import Changes
from prefillshare.cli.server_options import ApiKey, Url, server_url


def evaluate(
    suites: given.SuiteNames = None,
    model: given.ModelName = None,
    url: Url = None,
    api_key: ApiKey = None,
    weights: given.WeightsFile = None,
    changes: Changes = None,
    sharing_ratio: given.SharingRatio = None,
    data: given.DataDir = None,
    limit: given.Limit = None,
    concurrency: given.Concurrency = 16,
    allow_code_execution: given.AllowCode = False,
    tools: given.OfferTools = False,
    harness: given.Harness = None,
    few_shot: given.FewShot = None,
    out: given.ResultFile = None,
    compare: given.ComparedFiles = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how many problems of a suite a model solves.

    Behind any OpenAI-compatible URL, or from its weights; greedy, one answer per question.
    """
    if compare is not None:
        from prefillshare.cli.evaluate_report import show_comparison

        show_comparison(*compare, as_json=as_json)
        return
    options = given.EvaluateOptions(
        suites=tuple(suites or ()),
        model=model,
        api_key=api_key,
        weights=weights,
        changes=tuple(changes or ()),
        sharing_ratio=sharing_ratio,
        data=data,
        limit=limit,
        concurrency=concurrency,
        may_run_code=allow_code_execution,
        offers_tools=tools,
        harness=harness,
        num_examples=few_shot,
        out=out,
    )
    from prefillshare.cli.evaluate_report import show_scores, store_scores
    from prefillshare.cli.evaluate_run import measure

    address = server_url(url) if weights is None else ""
    scores = measure(options, address)
    show_scores(scores, as_json=as_json)
    if out:
        store_scores(scores, options, address, out)
