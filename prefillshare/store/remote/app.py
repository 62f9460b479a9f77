"""The two doors of a host's process: for peers by TCP, signed; for its own engines by a Unix socket of this user's."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
from aiohttp import web

from prefillshare.store.remote.fetching import Fetcher
from prefillshare.store.remote.messages import FETCH_PATH, MAC_HEADER, MOST_BODY_BYTES, STAGE_PATH, Fetch, Fetched
from prefillshare.store.remote.secret import Secret, is_same
from prefillshare.store.remote.sharing import Sharing

_MOST_FETCHES = 32
"""Fetches at a time; further ones wait for their turn, as they would for the peer's."""
_MOST_FINDS = 16
_MOST_STAGES = 8
"""Answers to peers at a time. Of threads of their own: laying pages takes long, and a peer that is not told within a
second which pages there are takes the host for gone."""

logger = logging.getLogger(__name__)


def peers_app(sharing: Sharing, secret: Secret) -> web.Application:
    """What peers ask: only what is signed with the deployment's secret is read."""
    finds = ThreadPoolExecutor(_MOST_FINDS, thread_name_prefix="find")
    stages = ThreadPoolExecutor(_MOST_STAGES, thread_name_prefix="stage")
    app = web.Application(client_max_size=MOST_BODY_BYTES)
    for path, answer in sharing.answers.items():
        app.router.add_post(path, _signed(path, answer, secret, stages if path == STAGE_PATH else finds))
    return app


def engines_app(fetcher: Fetcher) -> web.Application:
    """What engines of this host ask."""
    # Of their own: a fetch waits for a peer. Two hosts that fetch of each other would wait, each with all of its
    # threads, for an answer that no thread of the other is left to give.
    threads = ThreadPoolExecutor(_MOST_FETCHES, thread_name_prefix="fetch")

    async def fetch(request: web.Request) -> web.Response:
        try:
            asked = msgspec.msgpack.decode(await request.read(), type=Fetch)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        num_pages = await asyncio.get_running_loop().run_in_executor(threads, fetcher.fetch, asked)
        return web.Response(body=msgspec.msgpack.encode(Fetched(num_pages=num_pages)))

    app = web.Application(client_max_size=2 * MOST_BODY_BYTES)
    app.router.add_post(FETCH_PATH, fetch)
    return app


def _signed(
    path: str, answer: Callable[[bytes], tuple[bytes, msgspec.Struct]], secret: Secret, threads: ThreadPoolExecutor
) -> Callable[[web.Request], "asyncio.Future[web.Response]"]:
    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        if not is_same(request.headers.get(MAC_HEADER, ""), secret.of_request(path, body)):
            raise web.HTTPForbidden(text="the request is not signed with this deployment's secret_file")
        try:
            nonce, told = await asyncio.get_running_loop().run_in_executor(threads, answer, body)
        except (msgspec.DecodeError, ValueError) as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        reply = msgspec.msgpack.encode(told)
        return web.Response(body=reply, headers={MAC_HEADER: secret.of_reply(nonce, reply)})

    return handle  # type: ignore[return-value]
