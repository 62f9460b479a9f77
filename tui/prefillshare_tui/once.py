"""Asks a deployment once, for `prefillshare top --once`."""

import asyncio

import orjson

from prefillshare_tui.client import StateClient
from prefillshare_tui.parse import parse
from prefillshare_tui.summary import summary_text, summary_values
from prefillshare_tui.view import view_since_start


def ask_once(client: StateClient, *, as_json: bool) -> str:
    """Return one snapshot as text, or as one line of JSON: the state as it was sent, and what follows from it.

    Raises: FeedError.
    """
    reply = asyncio.run(_fetch_and_close(client))
    view = view_since_start(parse(reply, client.url))
    if not as_json:
        return summary_text(view)
    return orjson.dumps({"summary": summary_values(view), "state": orjson.loads(reply)}).decode()


async def _fetch_and_close(client: StateClient) -> bytes:
    try:
        return await client.fetch_raw()
    finally:
        await client.close()
