"""`prefillshare chat`."""

from typing import Annotated

import typer

from prefillshare.cli.completion import complete_model
from prefillshare.cli.server_options import ApiKey, MaxTokens, System, Temperature, Url, server_url
from prefillshare.cli.text import text_option


def chat(
    module: Annotated[
        str | None,
        typer.Argument(
            help="Module to begin with; without one, the deployment file's first.",
            callback=text_option,
            autocompletion=complete_model,
        ),
    ] = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Talk with the modules of a running server.

    /model NAME lets another module answer over the same conversation, /help lists the other commands.
    """
    from prefillshare.cli.chat_conversation import Conversation, talk
    from prefillshare.serving.client import Client

    with Client(server_url(url), api_key) as client:
        conversation = Conversation(
            client=client, module=module, system=system, max_tokens=max_tokens, temperature=temperature
        )
        talk(conversation)
