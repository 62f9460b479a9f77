"""`prefillshare train`: a training file into a decode module."""

from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli.config_options import Changes


def train(
    file: Annotated[Path, typer.Argument(help="Training file; models/recipes has examples.")],
    changes: Changes = None,
    router: Annotated[
        bool, typer.Option("--router", help="Train a classifier that chooses the module, by a file with [[modules]].")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, say what the run would need, and stop.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--out", "--output", help="Another output directory than the file's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan or the result as JSON.")] = False,
) -> None:
    """Train a decode module over the KV of a frozen base.

    With --router, train a classifier that chooses modules ("model": "auto").

    Distributed: accelerate launch -m prefillshare train.
    """
    from prefillshare.extras import require

    require("train")
    from dataclasses import replace

    from prefillshare.cli.train_run import run_router_training, run_training
    from prefillshare.config import load_router_training, load_training

    if router:
        if resume:
            raise typer.BadParameter("a classifier is trained in one go: leave --resume out", param_hint="--resume")
        wanted = load_router_training(file, changes or ())
        wanted = wanted if output is None else replace(wanted, output=output.resolve())
        run_router_training(wanted, dry_run=dry_run, as_json=json)
        return
    training = load_training(file, changes or ())
    if output is not None:
        training = replace(training, output=output.resolve())
    run_training(training, resume=resume, dry_run=dry_run, as_json=json)
