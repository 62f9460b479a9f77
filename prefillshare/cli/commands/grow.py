"""`prefillshare grow`: teach a family of decode modules one more task; list what it knows, report what that costs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from prefillshare.cli.config_options import Changes

if TYPE_CHECKING:
    from prefillshare.grow.family import Family


class _FamilyFirst(TyperGroup):
    """`grow FAMILY ...` is `grow add FAMILY ...`; a family named like a command is written ./ls."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["add", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        # Options may stand before the family, too.
        if args and args[0] not in self.commands and "--help" not in args[:1]:
            args = ["add", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_FamilyFirst,
    help="Decode modules that grow, task by task.\n\ngrow FAMILY --task new.toml, grow ls FAMILY, grow report FAMILY.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_FamilyFolder = Annotated[Path, typer.Argument(help="Folder of the family.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("add")
def add(
    family: Annotated[Path, typer.Argument(help="Folder of the family; its first task makes it.")],
    task: Annotated[Path, typer.Option(help="Task file; docs/grow.md has an example.")],
    changes: Changes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Learn one more task, `prefillshare grow FAMILY --task new.toml`: earlier modules stay as they are."""
    from prefillshare.extras import require

    require("train")
    from prefillshare.cli.output import put, put_json, say
    from prefillshare.config import load_grow_task
    from prefillshare.grow.family import Family, count_units
    from prefillshare.grow.run import grow
    from prefillshare.training.progress import make_reporter

    with make_reporter() as reporter:
        grown = grow(family.resolve(), load_grow_task(task, changes or ()), reporter)
    module = Family(family.resolve()).module(grown.name)
    counts = count_units(grown.uses)
    put_json({"module": str(module), "units": counts}) if as_json else put(str(module))
    say(f"{counts['new']} units new, {counts['reused']} reused, {counts['split']} split off from earlier ones")
    say(f'serve it: a [[decode]] table with kind = "lora" and path = "{module}"')


@app.command("ls")
def list_tasks(family: _FamilyFolder, as_json: _Json = False) -> None:
    """List the tasks of a family: units, loss, and where the module is."""
    from prefillshare.cli.output import put_json, put_table
    from prefillshare.grow.report import task_rows

    known = _open(family)
    rows = task_rows(known)
    if as_json:
        put_json([{**row, "module": str(known.module(row["task"]))} for row in rows])
        return
    header = ("task", "stamp", "conversations", "held-out loss", "rank", "module")
    put_table(
        header,
        [
            (
                row["task"],
                str(row["stamp"]),
                str(row["num_rows"]),
                f"{row['loss']:.4f}",
                str(row["rank"]),
                str(known.module(row["task"])),
            )
            for row in rows
        ],
    )


@app.command("report")
def report(
    family: _FamilyFolder,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the separate modules that it is compared with.")] = 32,
    plot: Annotated[Path | None, typer.Option(help="Also draw it, as SVG, into this file.")] = None,
    as_json: _Json = False,
) -> None:
    """Say per task which units are new, reused and split, and what all of it takes beside separate modules."""
    if plot is not None:
        from prefillshare.extras import require

        require("bench")
    from prefillshare.cli.output import put_json, put_table, say
    from prefillshare.grow.report import summary, task_rows

    known = _open(family)
    rows, total = task_rows(known), summary(known, rank)
    if plot is not None:
        from prefillshare.grow.plot import draw

        draw(rows, total, plot)
        say(f"drawn: {plot}")
    if as_json:
        put_json({"tasks": rows, "total": total})
        return
    header = ("task", "new", "reused", "split", "reused from", "parameters", f"of rank {rank}")
    put_table(
        header,
        [
            (
                row["task"],
                str(row["new"]),
                str(row["reused"]),
                str(row["split"]),
                ", ".join(f"{name} {count}" for name, count in row["reused_from"].items()) or "-",
                f"{row['num_parameters']:,}",
                f"{row['num_parameters'] / total['num_separate_per_task']:.2f}x",
            )
            for row in rows
        ],
    )
    say(
        f"together {total['num_parameters']:,} parameters, {total['ratio']:.2f}x of {len(rows)} separate modules of "
        f"rank {rank} ({total['num_separate']:,})"
    )


def _open(directory: Path) -> "Family":
    """The family in a folder, with its adapters compared; nothing is written.

    Raises: TrainingError when there is none, or it is not what it was.
    """
    from prefillshare.cli.output import say
    from prefillshare.errors import TrainingError
    from prefillshare.grow.family import Family
    from prefillshare.grow.publish import check_modules

    known = Family(directory.resolve())
    check_modules(known)
    if not known.tasks:
        raise TrainingError(
            f"{directory} holds no family: grow its first task with `prefillshare grow {directory} --task new.toml`"
        )
    if left_out := known.tell_left_out():
        say(left_out)
    return known
