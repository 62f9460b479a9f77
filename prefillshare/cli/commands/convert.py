"""`prefillshare convert`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli.output import put, say, warn

if TYPE_CHECKING:
    from prefillshare.drafts.convert import Converted

STDIN = "-"
_MAX_BYTES = 4 << 20

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE | -- COMMAND...]",
        help="Shell script, compose file or manifest with the command; - or nothing reads it from stdin.",
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "--output", "-o", help="File to write; without it, it goes to stdout.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file that is there.")]


def convert(words: Words = None, out: Out = None, force: Force = False) -> None:
    """Make a deployment file of a command line of vLLM or SGLang.

    One that serves a model with LoRA adapters, such as:
    prefillshare convert -o mine.toml -- vllm serve BASE --enable-lora --lora-modules math=adapters/math
    """
    from prefillshare.drafts.command_line import find_command
    from prefillshare.drafts.config_file import read_config_file
    from prefillshare.drafts.convert import convert as make
    from prefillshare.drafts.draft import write_draft
    from prefillshare.drafts.from_sglang import SGLANG
    from prefillshare.drafts.from_vllm import VLLM

    text, directory = _read(words or [])
    command = read_config_file(find_command(text), directory)
    converted = make(command, VLLM if command.server == "vllm" else SGLANG, directory)
    if out is None:
        put(converted.draft.render(Path("deployment.toml"), directory).rstrip("\n"))
    else:
        write_draft(converted.draft, out, directory, may_replace=force)
    _tell(converted, out)


def _read(words: list[str]) -> tuple[str, Path]:
    """The text, and the directory in which its relative paths are meant."""
    import shlex

    from prefillshare.cli.text import decode_text, read_stdin
    from prefillshare.errors import ConfigError

    if words in ([], [STDIN]):
        if not words and sys.stdin.isatty():
            raise ConfigError("there is no command to convert: name a file, or write it after --")
        return read_stdin("stdin"), Path()
    if len(words) > 1:
        return shlex.join(words), Path()
    file = Path(words[0])
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read ({error.strerror}): name a file, or write the command after --"
        ) from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{file} has more than {_MAX_BYTES >> 20} MiB: give a script or a manifest")
    return decode_text(content, str(file)), Path()


def _tell(converted: "Converted", out: Path | None) -> None:
    import shlex

    from prefillshare.drafts.draft import find_fault

    draft = converted.draft
    for text in draft.left:
        warn(f"not in the file: {text}")
    ordinary = [module.name for module in draft.modules if not module.where.seen.shares]
    if ordinary:
        say(
            f"{', '.join(ordinary)}: served as ordinary adapters (share = false); `prefillshare check` measures what "
            "sharing would cost, `prefillshare adapt` trains them on (docs/ordinary-adapters.md)"
        )
    if converted.needs_key:
        say("the key is not in the file: set PREFILLSHARE_API_KEY for `prefillshare launch`")
    if out is None:
        if converted.launch:
            say(f"where it listens is said to the launch: prefillshare launch FILE {shlex.join(converted.launch)}")
        return
    if (fault := find_fault(out)) is not None:
        warn(f"it cannot be served yet: {fault}")
    line = shlex.join(["prefillshare", "launch", str(out), *converted.launch])
    say(f"wrote {out}; check it with `{line} --dry-run`, serve it with `{line}`")
