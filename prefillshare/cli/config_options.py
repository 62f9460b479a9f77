"""The option of all commands that take a file: what to change of it, for this time."""

from typing import Annotated

import typer

from prefillshare.cli.completion import complete_key
from prefillshare.cli.text import text_option

Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of the file, such as engine.page_size=16 or decode.math.replicas=2; again for each further one.",
        callback=text_option,
        autocompletion=complete_key,
    ),
]
