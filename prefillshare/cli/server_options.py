"""Options of the commands that talk to a running server."""

from typing import TYPE_CHECKING, Annotated

import typer

from prefillshare.cli.completion import complete_url
from prefillshare.cli.text import key_option, number_option, text_option

if TYPE_CHECKING:
    from prefillshare.serving.run.record import DeploymentRecord

DEFAULT_URL = "http://127.0.0.1:30000"

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help=f"Address of the server; without one, the only deployment of yours that runs here, else {DEFAULT_URL}.",
        envvar="PREFILLSHARE_URL",
        callback=text_option,
        autocompletion=complete_url,
    ),
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", help="Key of the server.", envvar="PREFILLSHARE_API_KEY", callback=key_option)
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer in tokens.")]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.", callback=number_option)
]
System = Annotated[str | None, typer.Option("--system", help="System message.", callback=text_option)]


def server_url(given: str | None, name: str | None = None) -> str:
    """The address to ask: the given one, else that of the deployment called `name`, or of the only one that runs here.

    Raises: ConfigError with the list of deployments when several run.
    """
    if given is not None:
        return given
    if name is not None:
        from prefillshare.serving.run.local import choose_deployment

        return choose_deployment(name)[0].url
    from prefillshare.errors import ConfigError
    from prefillshare.serving.run.record import read_records

    try:
        running = read_records()
    except ConfigError:  # no place for records is no reason not to ask
        running = []
    # A worker that joined a router on this machine has a record of its own, with the router's address.
    by_url: dict[str, list[DeploymentRecord]] = {}
    for record in running:
        by_url.setdefault(record.url, []).append(record)
    if len(by_url) > 1:
        listed = "; ".join(f"--url {url} ({_describe(records)})" for url, records in by_url.items())
        raise ConfigError(f"{len(by_url)} deployments run here: say which one is meant by {listed}")
    return next(iter(by_url), DEFAULT_URL)


def _describe(records: "list[DeploymentRecord]") -> str:
    models = dict.fromkeys(model for record in records for model in record.models)
    return f"{records[0].name}: {', '.join(models)}"


def url_words(url: str) -> str:
    """The words that a command needs to ask the server at `url`; none for the usual address."""
    return "" if url == DEFAULT_URL else f" --url {url}"
