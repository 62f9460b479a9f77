"""The process of one launch that shares its store with peers, and fetches from theirs.

`python -m prefillshare.store.remote`, started by the launcher (`process.py`), which writes the settings to its standard
input, one line of JSON, and holds that pipe as long as it lives: when it closes, this process ends. It says in one line
of JSON that it is ready, or what is wrong.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable

from aiohttp import web

from prefillshare.errors import StoreError
from prefillshare.store.codec.preparation import Preparation
from prefillshare.store.remote.addresses import settings_of, socket_path, split_address
from prefillshare.store.remote.app import engines_app, peers_app
from prefillshare.store.remote.fetching import Fetcher, Source
from prefillshare.store.remote.link import keep_to_loopback
from prefillshare.store.remote.secret import read_secret
from prefillshare.store.remote.sharing import Sharing
from prefillshare.store.remote.stores import LocalStores
from prefillshare.store.settings import StoreSettings

Say = Callable[[dict[str, object]], None]


async def serve(settings: StoreSettings, ended: asyncio.Event, say: Say) -> None:
    """Answer until `ended`.

    Raises: StoreError.
    """
    assert settings.secret_file is not None
    secret, stores, preparation = read_secret(settings.secret_file), LocalStores(settings), Preparation()
    if settings.codec == "splitzip" or (settings.codec == "auto" and settings.directory is not None):
        # This host's own store wants it when it is opened.
        preparation.finish()
    async with contextlib.AsyncExitStack() as doors:
        if settings.serve is not None:
            host, port = split_address(settings.serve)
            keep_to_loopback(host)
            runner = await _run(doors, peers_app(Sharing(stores, secret, preparation), secret))
            await _listen(web.TCPSite(runner, host, port), f"serve = {settings.serve!r}")
        if settings.peers:
            path = socket_path(settings)
            path.unlink(missing_ok=True)
            fetcher = Fetcher(stores, [Source(url, secret, settings.codec, preparation) for url in settings.peers])
            runner = await _run(doors, engines_app(fetcher))
            await _listen(web.UnixSite(runner, str(path)), str(path))
        say({"ready": True})
        await ended.wait()


async def _run(doors: contextlib.AsyncExitStack, app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    doors.push_async_callback(runner.cleanup)
    return runner


async def _listen(site: web.BaseSite, what: str) -> None:
    try:
        await site.start()
    except OSError as error:
        raise StoreError(
            f"{what} under [store] cannot be listened on ({error.strerror or error}): name an address of this "
            "host and a free port"
        ) from error


def _keep_output() -> Say:
    """What writes to the launcher alone; NIXL writes its log to standard output, which goes to the log from now on."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return lambda what: print(json.dumps(what), file=told, flush=True)


async def _main(say: Say) -> None:
    settings, ended = settings_of(sys.stdin.readline()), asyncio.Event()

    def look() -> None:
        if not os.read(sys.stdin.fileno(), 1):
            ended.set()

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), look)
    await serve(settings, ended, say)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    answer = _keep_output()
    try:
        asyncio.run(_main(answer))
    except StoreError as error:
        # A launcher listens at the first start only, and names this log at each later one.
        logging.getLogger(__name__).error("%s", error)
        answer({"error": str(error)})
        sys.exit(1)
