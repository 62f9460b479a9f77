"""`prefillshare adapt`: an adapter from elsewhere is trained on over shared KV."""

from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli import adapter_options as given
from prefillshare.cli.text import number_option


def adapt(
    adapter: given.AdapterDirectory,
    data: given.DataName,
    base: given.BaseName = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", "--output", help="Directory of the new module; without it, ADAPTER-shared beside it."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; without it, one pass over the data.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Conversations per step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.", callback=number_option)] = 2e-4,
    held_out: Annotated[int, typer.Option(min=0, help="Last rows to measure by, not to train on.")] = 0,
    distil: Annotated[
        bool,
        typer.Option("--distil/--no-distil", help="Learn from the adapter itself, too, asked over KV of its own."),
    ] = True,
    any_ratio: Annotated[
        bool,
        typer.Option("--any-ratio", help="Train it for any part of a prompt being shared, none among them."),
    ] = False,
    messages: given.MessagesColumn = None,
    prompt: given.PromptColumn = None,
    answer: given.AnswerColumn = None,
    max_tokens: given.MaxTokens = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of rows.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, say what the run would need, and stop.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan or the result as JSON.")] = False,
) -> None:
    """Train an adapter from elsewhere on, over shared KV.

    It goes on from where it is; the same as `train` with `start`.
    """
    from prefillshare.extras import require

    require("train")
    from prefillshare.cli.train_run import run_training
    from prefillshare.config.training import Batch, Distillation, HeldOut, Optimizer, Run, Training
    from prefillshare.training.finetune.models import best_run_dtype

    training = Training(
        name=adapter.resolve().name,
        output=(output or adapter.resolve().with_name(f"{adapter.resolve().name}-shared")).resolve(),
        kind="lora",
        sharing_ratio=(0.0, 1.0) if any_ratio else None,
        start=adapter.resolve(),
        seed=seed,
        base=given.base_of(adapter, base),
        data=given.data_of(data, messages=messages, prompt=prompt, answer=answer),
        batch=Batch(max_tokens=max_tokens, accumulation=batch),
        optimizer=Optimizer(learning_rate=learning_rate, max_steps=steps),
        distillation=Distillation() if distil else None,
        run=Run(dtype=best_run_dtype()),
        evaluation=HeldOut(rows=held_out),
    )
    run_training(training, resume=resume, dry_run=dry_run, as_json=json)
