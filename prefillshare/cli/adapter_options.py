"""Options of the commands that take an adapter from elsewhere and conversations: `check` and `adapt`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

if TYPE_CHECKING:
    from prefillshare.config.training import BaseModel, Columns, Data

AdapterDirectory = Annotated[Path, typer.Argument(help="Directory of a LoRA adapter.", metavar="ADAPTER")]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="File with conversations (JSON lines, JSON, CSV, Parquet), or a known set, such as gsm8k.",
    ),
]
BaseName = Annotated[
    str | None,
    typer.Option("--base", help="Base of the adapter, a directory or a hub name; without it, what the adapter says."),
]
MessagesColumn = Annotated[str | None, typer.Option("--messages", help="Column with a chat, if it is not messages.")]
PromptColumn = Annotated[str | None, typer.Option("--prompt", help="Column with the question, if it is not prompt.")]
AnswerColumn = Annotated[str | None, typer.Option("--answer", help="Column with the answer, if it is not answer.")]
MaxTokens = Annotated[int, typer.Option(min=2, help="Longest conversation in tokens; longer ones are left out.")]

_KNOWN_PAIRS = (
    ("prompt", "answer"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "output"),
    ("query", "response"),
)


def base_of(adapter: Path, given: str | None) -> "BaseModel":
    """The base that an option names, or else the adapter's configuration.

    Raises: ConfigError when neither does; ModuleError when the adapter cannot be read.
    """
    from prefillshare.cli.output import say
    from prefillshare.config.training import BaseModel
    from prefillshare.errors import ConfigError
    from prefillshare.modules.adapter import read_adapter

    name = given or read_adapter(adapter, adapter.name).base_name
    if not name:
        raise ConfigError(f"the adapter in {adapter} does not say what its base is: add --base")
    path = Path(name)
    if path.is_dir():
        return BaseModel(path=path.resolve())
    if given is not None and (path.is_absolute() or name.startswith(".")):
        raise ConfigError(f"--base {given} does not exist: give the directory of the base, or its name on the hub")
    if given is None:
        say(f"the base is {name}, as the adapter says, from the hub; where you have it on disk, name that with --base")
    return BaseModel(hub=name)


def data_of(
    name: str, *, messages: str | None, prompt: str | None, answer: str | None, max_rows: int | None = None
) -> "Data":
    """The rows that options name; columns that they leave out are those of the first row that are known.

    Raises: ConfigError when there is no such file, or its columns are none that are known.
    """
    from prefillshare.config.training import Data, Source
    from prefillshare.errors import ConfigError

    if name in get_args(Source):
        if messages or prompt or answer:
            raise ConfigError(f"--data {name} has its own mapping: leave out --messages, --prompt and --answer")
        return Data(source=cast(Source, name), max_rows=max_rows)
    file = Path(name)
    if not file.is_file():
        wrong = "is no file" if file.exists() else "does not exist"
        raise ConfigError(f"--data {name} {wrong}: give a file, or one of {', '.join(get_args(Source))}")
    columns = _given_columns(messages, prompt, answer) or _known_columns(file)
    return Data(file=file.resolve(), columns=columns, max_rows=max_rows)


def _given_columns(messages: str | None, prompt: str | None, answer: str | None) -> "Columns | None":
    from prefillshare.config.training import Columns

    if messages is None and prompt is None and answer is None:
        return None
    if messages is not None:
        return Columns(messages=messages, prompt=prompt, answer=answer)
    return Columns(prompt=prompt or "prompt", answer=answer or "answer")


def _known_columns(file: Path) -> "Columns":
    from prefillshare.config.training import Columns
    from prefillshare.errors import ConfigError

    names = _first_names(file)
    if not names:
        raise ConfigError(
            f"{file} has no row that could be read: give a file with conversations, one JSON object a line"
        )
    if "messages" in names:
        return Columns(messages="messages")
    for prompt, answer in _KNOWN_PAIRS:
        if {prompt, answer} <= names:
            return Columns(prompt=prompt, answer=answer)
    raise ConfigError(
        f"{file} has the columns {', '.join(sorted(names))}: say which hold what by --messages, or by "
        "--prompt and --answer"
    )


def _first_names(file: Path) -> set[str]:
    """Those of the first row that can be read; the others are counted and shown later."""
    from prefillshare.datafiles.files import read_rows
    from prefillshare.datafiles.rows import BadRow
    from prefillshare.errors import ConfigError

    try:
        return next((set(row) for row in read_rows(file) if not isinstance(row, BadRow)), set())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error}): give another file") from None
