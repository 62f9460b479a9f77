"""`prefillshare bench`."""

import typer

from prefillshare.cli import bench_options as given

_WITH_RESUME = {"resume", "api_key", "check_answers"}


def bench(
    context: typer.Context,
    workload: given.WorkloadName = None,
    file: given.WorkloadFile = None,
    systems: given.Systems = "shared,vanilla-lora",
    endpoint: given.Endpoints = None,
    api_key: given.EndpointKey = None,
    preset: given.PresetName = None,
    family: given.FamilyName = None,
    changes: given.Changes = None,
    modules: given.ModuleCounts = None,
    concurrency: given.Concurrency = None,
    rate: given.Rate = None,
    speed: given.Speed = None,
    sessions: given.NumSessions = None,
    start_tokens: given.StartTokens = None,
    growth_tokens: given.GrowthTokens = None,
    output_tokens: given.OutputTokens = None,
    turns: given.Turns = None,
    role_tokens: given.RoleTokens = None,
    think_time: given.ThinkTime = None,
    context_length: given.ContextLength = None,
    vocab_size: given.VocabSize = None,
    kv_tokens: given.KvTokens = None,
    store: given.StoreSize = None,
    slo_ttft: given.SloTtft = None,
    slo_gap: given.SloGap = None,
    repeats: given.Repeats = None,
    seed: given.Seed = 1,
    check_answers: given.NumChecked = None,
    run_limit: given.RunLimit = None,
    time_limit: given.TimeLimit = None,
    out: given.ResultsDir = None,
    resume: given.ResumeDir = None,
) -> None:
    """Measure systems side by side on one workload.

    Ctrl-C keeps what is done.
    """
    options = given.BenchOptions.of(locals())
    from prefillshare.cli.output import say
    from prefillshare.extras import require

    require("bench")
    # Before the imports, which take their time on a busy machine.
    say(f"preparing {f'what {resume} lacks' if resume else workload or 'a measurement'}")
    from prefillshare.cli.bench_plan import make_plan
    from prefillshare.cli.bench_run import measure
    from prefillshare.errors import BenchError

    if (workload is None) == (resume is None):
        raise BenchError("give a workload, or --resume with the directory of a measurement: one of the two")
    if resume is not None:
        _refuse_changes(context)
        measure(resume, None, api_key, check_answers)
    else:
        measure(out, make_plan(options), api_key)


def _refuse_changes(context: typer.Context) -> None:
    """A measurement goes on as it was begun."""
    from prefillshare.errors import BenchError

    extra = [
        "--set" if name == "changes" else f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in _WITH_RESUME and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if extra:
        raise BenchError(
            f"--resume goes on with the plan that it finds, so {', '.join(extra)} would change nothing: leave it out, "
            "or begin a new measurement"
        )
