"""`prefillshare init`."""

import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from prefillshare.cli.output import say

Topology = Literal["colocated", "disaggregated"]

File = Annotated[Path, typer.Argument(help="Deployment file to write.")]
Base = Annotated[str | None, typer.Option("--base", help="The shared base: a directory, or ORG/NAME on the hub.")]
Modules = Annotated[
    list[str] | None,
    typer.Option("--module", metavar="NAME=WHERE", help="A decode module: a directory, or ORG/NAME; again for more."),
]
FullModules = Annotated[
    list[str] | None,
    typer.Option(
        "--full", metavar="NAME=WHERE", help="One with full weights, where no directory tells; disaggregated."
    ),
]
ChosenTopology = Annotated[
    Topology | None, typer.Option("--topology", help="One engine, or workers and a router; else colocated.")
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the deployment; else that of the file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file that is there.")]


def init(
    file: File = Path("deployment.toml"),
    base: Base = None,
    module: Modules = None,
    full: FullModules = None,
    topology: ChosenTopology = None,
    name: Name = None,
    force: Force = False,
) -> None:
    """Write a deployment file for your models.

    At a terminal, asks for what is not said.
    """
    from prefillshare.drafts.ask import make_draft, parse_module
    from prefillshare.drafts.draft import find_fault, write_draft
    from prefillshare.errors import ConfigError

    _check_free(file, force)
    is_asking = sys.stdin.isatty() and sys.stderr.isatty()
    if base is None and not is_asking:
        raise ConfigError("there is no base: add --base, a directory or ORG/NAME on the hub")
    base = base or _ask_base()
    given = [*(module or []), *(full or [])]
    modules = dict(map(parse_module, module or [])) or ({} if given or not is_asking else _ask_modules())
    kind = topology or (_ask_topology() if is_asking and not given else "colocated")
    weights = dict(map(parse_module, full or []))
    draft = make_draft(base, modules, weights, kind, name or file.stem, Path())
    write_draft(draft, file, Path(), may_replace=force)
    if (fault := find_fault(file)) is not None:
        raise ConfigError(f"wrote {file}, which cannot be served yet: {fault}")
    say(
        f"wrote {file}; check it with `prefillshare launch {file} --dry-run`, serve it with `prefillshare launch "
        f"{file}`"
    )


def _check_free(file: Path, force: bool) -> None:
    """Before anything is asked."""
    from prefillshare.errors import ConfigError

    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: give another name, or --force to replace it")


def _ask_base() -> str:
    """Ask until it is one: what was said before would be lost with an error."""
    from prefillshare.drafts.ask import find_base
    from prefillshare.errors import ConfigError

    while True:
        answer = _ask("The shared base: a directory, or ORG/NAME on the hub")
        try:
            find_base(answer, Path())
        except ConfigError as error:
            say(str(error))
            continue
        return answer


def _ask_modules() -> dict[str, str]:
    """Decode modules one after the other, until an empty line."""
    from prefillshare.drafts.ask import find_module, parse_module
    from prefillshare.errors import ConfigError

    found: dict[str, str] = {}
    while True:
        asked = "A decode module, NAME=WHERE" if not found else "One more, or Enter to end"
        answer = _ask(asked, default="" if found else None, show_default=False)
        if not answer:
            return found
        try:
            name, where = parse_module(answer)
            find_module(name, where, Path())
        except ConfigError as error:
            say(str(error))
            continue
        found[name] = where


def _ask_topology() -> Topology:
    choices = get_args(Topology)
    while True:
        answer = _ask(f"How they are served ({' or '.join(choices)})", default="colocated")
        if answer in choices:
            return "disaggregated" if answer == "disaggregated" else "colocated"
        say(f"{answer!r} is neither {' nor '.join(choices)}")


def _ask(question: str, default: str | None = None, *, show_default: bool = True) -> str:
    """Return an answer of the person at the terminal.

    Raises: KeyboardInterrupt for Ctrl-C and Ctrl-D, of which Typer makes an exit code and a word of its own.
    """
    try:
        return str(typer.prompt(question, default=default, show_default=show_default, err=True))
    except typer.Abort:
        say()
        raise KeyboardInterrupt from None
