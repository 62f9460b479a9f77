"""`prefillshare chat`."""

from typing import Annotated

import typer

from prefillshare.cli.server_options import DEFAULT_URL, ApiKey, MaxTokens, System, Temperature, Url


def chat(
    module: Annotated[str | None, typer.Argument(help="Module to begin with; without one, the first by name.")] = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Talk with the modules of a running server.

    /model NAME lets another module answer over the same conversation, /help lists the other commands.
    """
    from prefillshare.cli.conversation import Conversation, talk
    from prefillshare.serving.client import Client

    with Client(url, api_key) as client:
        conversation = Conversation(
            client=client, module=module, system=system, max_tokens=max_tokens, temperature=temperature
        )
        talk(conversation)
