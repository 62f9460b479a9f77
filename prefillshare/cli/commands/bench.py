"""`prefillshare bench`."""

from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli.text import key_option, text_option

_WITH_RESUME = {"resume", "api_key", "check_answers"}


def bench(
    context: typer.Context,
    workload: Annotated[
        str | None, typer.Argument(help="react, reflexion, unshared, trace FILE or gsm8k-agents FILE.")
    ] = None,
    file: Annotated[Path | None, typer.Argument(help="File of the workloads trace and gsm8k-agents.")] = None,
    systems: Annotated[
        str, typer.Option(help="shared, shared-pd, vanilla-lora, vanilla-pd, vanilla-single; the first is compared.")
    ] = "shared,vanilla-lora",
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=URL of an OpenAI-compatible server that runs already; URL#MODEL,MODEL names models.",
            callback=text_option,
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key of the endpoints.", envvar="PREFILLSHARE_BENCH_API_KEY", callback=key_option)
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="cpu, gpu-8b or gpu-15min; without one, cpu or gpu-8b, as the machine is. Options override it."
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(help="bench-0.1b, tiny, qwen3-1.7b-shape, qwen3-8b-shape or a colocated deployment file."),
    ] = None,
    modules: Annotated[str | None, typer.Option(help="Numbers of decode modules, such as 1,2,4,8; else 4.")] = None,
    concurrency: Annotated[str | None, typer.Option(help="Closed loop: sessions at a time, such as 1,4,8.")] = None,
    rate: Annotated[str | None, typer.Option(help="Poisson arrivals: sessions per second, such as 0.5,1,2.")] = None,
    speed: Annotated[
        str | None, typer.Option(help="Trace: its own arrival times, so many times faster, such as 1,2.")
    ] = None,
    sessions: Annotated[int | None, typer.Option(help="Sessions per run.")] = None,
    start_tokens: Annotated[int | None, typer.Option(help="Context before the first call.")] = None,
    growth_tokens: Annotated[int | None, typer.Option(help="Tokens that join between two calls.")] = None,
    output_tokens: Annotated[str | None, typer.Option(help="Answer lengths, taken in turn, such as 8 or 64,8.")] = None,
    turns: Annotated[int | None, typer.Option(help="Calls per session.")] = None,
    role_tokens: Annotated[int | None, typer.Option(help="Instructions at the end of each prompt.")] = None,
    context_length: Annotated[int | None, typer.Option(help="Context window that a trace is scaled to.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Made-up tokens lie below this id.")] = None,
    kv_tokens: Annotated[int | None, typer.Option(help="KV budget of each system in tokens; 0: the engine's.")] = None,
    slo_ttft: Annotated[float | None, typer.Option(help="Goodput: longest time to the first token, s.")] = None,
    slo_gap: Annotated[float | None, typer.Option(help="Goodput: longest mean time between tokens, s.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Starts of each system; else 3.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything made up.")] = 1,
    check_answers: Annotated[
        int | None,
        typer.Option(help="Answers per shared run compared with the reference; 8, with --resume as it was.", min=0),
    ] = None,
    run_limit: Annotated[
        float | None, typer.Option(help="Seconds after which a run is cut; its figures are of the calls until then.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Minutes that this call may take; it leaves out what does not fit.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory for the results.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the measurement in this directory.")] = None,
) -> None:
    """Measure systems side by side on one workload; Ctrl-C keeps what is done."""
    from prefillshare.cli.output import say
    from prefillshare.extras import require

    require("bench")
    # Before the imports, which take their time on a busy machine.
    say(f"preparing {f'what {resume} lacks' if resume else workload or 'a measurement'}")
    from prefillshare.cli.bench_plan import BenchOptions, make_plan, measure
    from prefillshare.errors import BenchError

    if (workload is None) == (resume is None):
        raise BenchError("give a workload, or --resume with the directory of a measurement: one of the two")
    if resume is not None:
        _refuse_changes(context)
        measure(resume, None, api_key, check_answers)
        return
    options = BenchOptions(
        workload=str(workload),
        file=file,
        systems=systems,
        endpoints=tuple(endpoint or ()),
        preset=preset,
        family=family,
        modules=modules,
        concurrency=concurrency,
        rate=rate,
        speed=speed,
        sizes={
            "num_sessions": sessions,
            "start_tokens": start_tokens,
            "growth_tokens": growth_tokens,
            "turns": turns,
            "role_tokens": role_tokens,
            "context_length": context_length,
            "vocab_size": vocab_size,
            "seed": seed,
        },
        output_tokens=output_tokens,
        kv_tokens=kv_tokens,
        slo={"ttft_s": slo_ttft, "gap_s": slo_gap},
        repeats=repeats,
        num_checked=check_answers,
        run_limit_s=run_limit,
        time_limit_s=None if time_limit is None else 60 * time_limit,
    )
    measure(out, make_plan(options), api_key)


def _refuse_changes(context: typer.Context) -> None:
    """A measurement goes on as it was begun."""
    from prefillshare.errors import BenchError

    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in _WITH_RESUME and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise BenchError(
            f"--resume goes on with the plan that it finds, so {', '.join(given)} would change nothing: leave it out, "
            "or begin a new measurement"
        )
