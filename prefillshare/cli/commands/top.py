"""`prefillshare top`."""

import sys
from typing import Annotated

import typer

from prefillshare.cli import cluster_options as given
from prefillshare.cli.output import put
from prefillshare.cli.server_options import ApiKey, Url, server_url
from prefillshare.cli.text import number_option


def top(
    url: Url = None,
    api_key: ApiKey = None,
    interval: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1, callback=number_option)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one look as text and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print one line of JSON.")] = False,
    cluster: given.Address = None,
    deployment: given.Deployment = None,
) -> None:
    """Watch a running deployment: the dashboard.

    Prefix hits, latency, memory, modules, workers, sessions.
    """
    from prefillshare.errors import ConfigError, ServerError
    from prefillshare_tui.client import StateClient
    from prefillshare_tui.errors import FeedError

    if as_json and not once:
        raise ConfigError("--json prints one look at the deployment: add --once")
    if not once and not _can_draw():
        raise ConfigError("the dashboard needs a terminal: use --once, or --once --json in scripts")
    try:
        found = given.find_router(cluster, deployment)[0] if cluster and not url else server_url(url, deployment)
        client = StateClient(found, api_key)
        if once:
            from prefillshare_tui.once import ask_once

            put(ask_once(client, as_json=as_json))
            return
    except FeedError as error:
        raise ServerError(str(error)) from None
    from prefillshare_tui.app import Dashboard

    Dashboard(client, interval_s=interval).run()


def _can_draw() -> bool:
    import os

    # `textual serve` gives the program a pipe and draws in a browser.
    return "TEXTUAL_DRIVER" in os.environ or (sys.stdin.isatty() and sys.stdout.isatty())
