"""`prefillshare simulate`."""

from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli import bench_options as given
from prefillshare.cli.config_options import Changes
from prefillshare.cli.text import key_option, number_option, text_option


def simulate(
    file: Annotated[Path, typer.Argument(help="Deployment file: its modules, workers and [router] table.")],
    changes: Changes = None,
    workload: Annotated[str, typer.Option(help="react, reflexion or unshared.")] = "react",
    trace: Annotated[Path | None, typer.Option(help="A trace in Mooncake's format, in place of --workload.")] = None,
    workers: Annotated[
        str | None, typer.Option(help="8 (half prefill), 4+4, 8..1000 (doubling), several by commas; else the file's.")
    ] = None,
    systems: Annotated[
        str | None,
        typer.Option(
            help="prefix_aware, session, round_robin, least_loaded, per-module; else prefix_aware, and per-module "
            "where each module can have a prefill worker."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Worker model: a preset or a TOML file.")] = "h100-qwen3-8b",
    modules: Annotated[int | None, typer.Option(help="Number of decode modules; else the file's.", min=1)] = None,
    concurrency: given.Concurrency = None,
    rate: given.Rate = None,
    speed: given.Speed = None,
    arrivals: Annotated[
        float | None,
        typer.Option(
            help="With --concurrency: sessions arrive by chance, so many per second.", min=1e-6, callback=number_option
        ),
    ] = None,
    per_worker: Annotated[bool, typer.Option("--per-worker", help="The load is that of one worker.")] = False,
    sessions: given.NumSessions = None,
    start_tokens: given.StartTokens = None,
    growth_tokens: given.GrowthTokens = None,
    output_tokens: given.OutputTokens = None,
    turns: given.Turns = None,
    role_tokens: given.RoleTokens = None,
    think_time: given.ThinkTime = None,
    context_length: given.ContextLength = None,
    eager: Annotated[bool, typer.Option("--eager", help="Compute answers ahead when nobody waits.")] = False,
    slo_ttft: Annotated[
        float | None,
        typer.Option(help="A call is good up to so many seconds to its first token.", min=0, callback=number_option),
    ] = None,
    slo_e2e: Annotated[
        float | None,
        typer.Option(help="A call is good up to so many seconds to its last token.", min=0, callback=number_option),
    ] = None,
    seed: given.Seed = 1,
    fit: Annotated[
        str | None,
        typer.Option(help="Measure the deployment of FILE at this URL, and use the model of it.", callback=text_option),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key of that deployment.", envvar="PREFILLSHARE_API_KEY", callback=key_option)
    ] = None,
    save_model: Annotated[Path | None, typer.Option(help="Write the fitted model there, and simulate nothing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "--output", help="Directory for figures.json and plots.")] = None,
) -> None:
    """Say how a deployment of any size would behave.

    The router's own code decides, over simulated workers.
    """
    values = locals()
    from prefillshare.extras import require

    require("bench")
    from prefillshare.cli.simulate_run import Simulated, fit_model, run_plan

    options = Simulated.of(values)
    fitted = None if fit is None else fit_model(options, fit, api_key, save_model)
    if fit is None or save_model is None:
        run_plan(options, fitted, as_json=as_json, out=out)
