"""`prefillshare quantize`: a file into a decode module of 2-bit codebook weights."""

from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli.config_options import Changes


def quantize(
    file: Annotated[Path, typer.Argument(help="Quantisation file; models/recipes/tiny-math-2bit.toml is an example.")],
    changes: Changes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, say sizes and memory that it would take, and stop.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--out", "--output", help="Another output directory than the file's.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Directory of the suite's files, as for `prefillshare eval`.")
    ] = None,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Let a suite run code that a model wrote.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan or the report as JSON.")] = False,
) -> None:
    """Quantise a decode module to about 2 bits per weight.

    Then tune it over the KV of its base.
    """
    from prefillshare.extras import require

    require("train")
    from dataclasses import replace

    from prefillshare.cli.output import put, put_json, say
    from prefillshare.cli.quantize_run import make_judge, put_report
    from prefillshare.config import load_quantisation
    from prefillshare.quantize.run import Quantise
    from prefillshare.training.progress import make_reporter

    wanted = load_quantisation(file, changes or ())
    if output is not None:
        wanted = replace(wanted, output=output.resolve())
    judge = make_judge(wanted, data, may_run_code=allow_code_execution)
    with make_reporter() as reporter:
        run = Quantise(wanted, reporter, judge)
        if dry_run:
            plan = run.plan()
            put_json(plan.figures) if json else put("\n".join(plan.lines))
            return
        try:
            module = run.run(resume=resume)
        except KeyboardInterrupt:
            if run.directory.has_record:
                reporter.say("the same command with --resume goes on with what is done")
            raise
    put_report(module, as_json=json)
    say(f'serve it: a [[decode]] table with kind = "full" and path = "{module}", on CPUs')
