"""`prefillshare train`: a training file into a decode module."""

import os
from pathlib import Path
from typing import Annotated

import typer


def train(
    file: Annotated[Path, typer.Argument(help="Training file; models/recipes has examples.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, say what the run would need, and stop.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Another output directory than the file's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan or the result as JSON.")] = False,
) -> None:
    """Fine-tune a decode module over the KV of a frozen base. Distributed: accelerate launch -m prefillshare train."""
    from prefillshare.extras import require

    require("train")
    from dataclasses import replace

    from prefillshare.cli.output import put, put_json, say
    from prefillshare.config import load_training
    from prefillshare.training.finetune.run import Finetune
    from prefillshare.training.progress import make_reporter

    training = load_training(file)
    if output is not None:
        training = replace(training, output=output.resolve())
    with make_reporter() as reporter:
        run = Finetune(training, reporter)
        if dry_run:
            plan = run.plan()
            put_json(plan.figures) if json else put("\n".join(plan.lines))
            return
        module = run.run(resume=resume)
    if int(os.environ.get("RANK", "0")) > 0:  # one of several processes speaks
        return
    put_json({"module": str(module)}) if json else put(str(module))
    say(f'serve it: a [[decode]] table with kind = "{training.kind}" and path = "{module}"')
