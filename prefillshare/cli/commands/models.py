"""`prefillshare models`: build the tiny family, merge an adapter, measure accuracy."""

from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli.text import key_option, number_option, text_option

app = typer.Typer(
    help="Build, merge and evaluate modules.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
build_app = typer.Typer(help="Build a family of modules from its recipe.", no_args_is_help=True, rich_markup_mode=None)
evaluate_app = typer.Typer(help="Measure the accuracy of modules.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(build_app, name="build")
app.add_typer(evaluate_app, name="evaluate")

MODELS_DIR = Path("models")
TINY_DIR = MODELS_DIR / "tiny"
ICARUS_DIR = MODELS_DIR / "tiny-icarus"


@build_app.callback()
def build_group() -> None:
    """Build a family of modules from its recipe."""


@evaluate_app.callback()
def evaluate_group() -> None:
    """Measure the accuracy of modules."""


@build_app.command("tiny")
def build_tiny(
    out: Annotated[Path, typer.Option("--out", "--output", help="Directory of the finished modules.")] = TINY_DIR,
    work: Annotated[
        Path | None, typer.Option(help="Directory of data, checkpoints and logs; the default is OUT/.build.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Delete what is there and start over, or continue (the default).")
    ] = False,
    steps_scale: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=10.0,
            help="Factor on the length of every run; below 1 for a quick try.",
            callback=number_option,
        ),
    ] = 1.0,
) -> None:
    """Build tiny-base and its modules: data, tokenizer, pretraining, fine-tuning. About an hour on 2 cores."""
    from prefillshare.cli.output import say
    from prefillshare.tiny.build import BuildPlan, TinyBuild, check_out, wipe
    from prefillshare.tiny.recipe import TinyRecipe
    from prefillshare.training.progress import make_reporter

    plan = BuildPlan(recipe=TinyRecipe(), out=out, work=work or out / ".build", scale=steps_scale)
    if fresh:
        wipe(plan)
    check_out(plan)
    with make_reporter() as reporter:
        TinyBuild(plan, reporter).run()
    say(f"built {out}; measure it with: prefillshare models evaluate tiny")


@build_app.command("tiny-icarus")
def build_tiny_icarus(
    out: Annotated[Path, typer.Option("--out", "--output", help="Directory of the finished modules.")] = ICARUS_DIR,
    base: Annotated[Path, typer.Option(help="Directory of tiny-base.")] = TINY_DIR / "base",
    work: Annotated[
        Path | None, typer.Option(help="Directory of data, checkpoints and logs; the default is OUT/.build.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Delete what is there and start over, or continue (the default).")
    ] = False,
) -> None:
    """Build the tiny modules whose KV is all tiny-base's (ICaRus), over a finished tiny-base. About 15 minutes."""
    from prefillshare.cli.output import say
    from prefillshare.tiny.icarus import IcarusBuild, IcarusPlan
    from prefillshare.tiny.recipe import IcarusRecipe
    from prefillshare.training.progress import make_reporter

    plan = IcarusPlan(recipe=IcarusRecipe(), base=base, out=out, work=work or out / ".build")
    with make_reporter() as reporter:
        build = IcarusBuild(plan, reporter)
        if fresh:
            build.wipe()
        build.run()
    say(f"built {out}; measure it with: prefillshare eval tiny-math --model math --weights models/tiny-icarus.toml")


@app.command("merge")
def merge(
    adapter: Annotated[Path, typer.Argument(help="Directory of a LoRA decode module.")],
    base: Annotated[Path, typer.Option(help="Directory of the prefill module it was trained on.")],
    out: Annotated[Path, typer.Option("--out", "--output", help="Directory of the new module.")],
    dtype: Annotated[str, typer.Option(help="base, float32, bfloat16 or float16.")] = "base",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Turn a LoRA decode module into one with full weights."""
    from prefillshare.cli.output import put, say
    from prefillshare.modules.merge import merge_adapter

    merged = merge_adapter(adapter, base, out, dtype=dtype, force=force)  # type: ignore[arg-type]
    say("merged; it still decodes over the KV of its prefill module only")
    put(str(merged))


@evaluate_app.command("tiny")
def evaluate_tiny(
    url: Annotated[
        str | None,
        typer.Option(help="A running server with the modules and tiny-base; it is asked alone.", callback=text_option),
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="Key of that server.", callback=key_option)] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Decode with transformers instead of a server: no engine is needed.")
    ] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="File for every question and answer.")] = None,
    num_problems: Annotated[int, typer.Option(min=1, max=5000, help="Problems per task.")] = 500,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Questions asked at the same time.")] = 16,
    models_dir: Annotated[Path, typer.Option(help="Directory with the deployment files.")] = MODELS_DIR,
    readme: Annotated[
        bool, typer.Option("--readme/--no-readme", help="Write the table into models/README.md.")
    ] = False,
) -> None:
    """Ask 500 held-out problems per task: the modules over shared KV, the base alone, naive sharing."""
    from prefillshare.cli.evaluate_tiny import EvaluationRequest, evaluate

    evaluate(
        EvaluationRequest(
            url=url,
            api_key=api_key,
            in_process=in_process,
            json_out=json_out,
            num_problems=num_problems,
            concurrency=concurrency,
            models_dir=models_dir,
            writes_readme=readme,
        )
    )
