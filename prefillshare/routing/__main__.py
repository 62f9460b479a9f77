"""Run a router: `python -m prefillshare.routing SETTINGS.json`.

SIGTERM and SIGINT let running calls finish for drain_timeout_s; a second one ends them.
"""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.routing.app import make_app
from prefillshare.routing.keys import GATEWAY
from prefillshare.routing.settings import RouterSettings, load_settings

log = logging.getLogger("prefillshare.routing")


def main() -> int:
    """Run until a signal comes; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m prefillshare.routing", description=__doc__)
    parser.add_argument("settings", type=Path, help="JSON file of mode 600")
    file = parser.parse_args().settings
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        uvloop.run(serve(load_settings(file)))
    except PrefillShareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


async def serve(settings: RouterSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises: ConfigError when the address is taken.
    """
    app = make_app(settings)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port, backlog=1024).start()
        except OSError as error:
            raise ConfigError(f"{settings.host}:{settings.port} cannot be used ({error.strerror}): free it") from None
        log.info("listening on http://%s:%d", settings.host, settings.port)
        await _drained_after_signal(app)
    finally:
        await runner.cleanup()


async def _drained_after_signal(app: web.Application) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lambda: (second if first.is_set() else first).set())
    await first.wait()
    log.info("stopping: %d calls are running", app[GATEWAY].proxy.num_running)
    drain = asyncio.create_task(app[GATEWAY].drain())
    hurry = asyncio.create_task(second.wait())
    await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
    for task in (drain, hurry):
        task.cancel()


if __name__ == "__main__":
    sys.exit(main())
