"""Options of the commands that talk to a running server."""

from typing import Annotated

import typer

Url = Annotated[str, typer.Option("--url", help="Address of the server.", envvar="PREFILLSHARE_URL")]
ApiKey = Annotated[str | None, typer.Option("--api-key", help="Key of the server.", envvar="PREFILLSHARE_API_KEY")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")]
System = Annotated[str | None, typer.Option("--system", help="System message.")]

DEFAULT_URL = "http://127.0.0.1:30000"
