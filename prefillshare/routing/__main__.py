"""Run a router: `python -m prefillshare.routing SETTINGS.json`.

SIGTERM and SIGINT let running calls finish for drain_timeout_s; a second one ends them.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import uvloop
from aiohttp import web

from prefillshare.contract import LISTENER_VARIABLE
from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.open_files import raise_limit
from prefillshare.routing.settings import RouterSettings, load_settings
from prefillshare.routing.web.app import make_app
from prefillshare.routing.web.connections import make_runner
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.wire.text import make_printable

_NUM_NEW_OBJECTS = 20_000
"""Containers that are made, and not gone, before the youngest are looked at; Python's own number is 700."""

log = logging.getLogger("prefillshare.routing")


def main() -> int:
    """Run until a signal comes; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m prefillshare.routing", description=__doc__)
    parser.add_argument("settings", type=Path, help="JSON file of mode 600")
    file = parser.parse_args().settings
    _log_to(sys.stderr)
    try:
        uvloop.run(serve(replace(load_settings(file), max_open_files=raise_limit())))
    except PrefillShareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


class _OneLine(logging.Formatter):
    """Messages hold texts of clients, which must not look like further messages."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the message on one line; a traceback comes after it."""
        record.message = make_printable(record.message)
        return super().formatMessage(record)


def _log_to(stream: TextIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


async def serve(settings: RouterSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises: ConfigError when the address is taken.
    """
    app = make_app(settings)
    runner = make_runner(app, idle_s=settings.router.client_idle_timeout_s, shutdown_timeout_s=1.0)
    await runner.setup()
    try:
        try:
            descriptors = app[GATEWAY].parts.descriptors
            # As many as wait here are taken at one go: there must be descriptors for them.
            await _make_site(runner, settings, backlog=max(descriptors.spare // 2, 1)).start()
        except OSError as error:
            raise ConfigError(
                f"{settings.host}:{settings.port} cannot be used ({error.strerror}): free it, or choose another port"
            ) from None
        _collect_seldom()
        log.info("listening on http://%s:%d", settings.host, settings.port)
        log.info("%d open files allow %d calls at a time", descriptors.limit, descriptors.max_calls)
        await _drain_on_signal(app)
    finally:
        await runner.cleanup()


def _make_site(runner: web.AppRunner, settings: RouterSettings, backlog: int) -> web.BaseSite:
    """Return what listens: on the supervisor's socket, which has clients waiting, where it has given one."""
    if (descriptor := os.environ.get(LISTENER_VARIABLE)) is not None:
        return web.SockSite(runner, socket.socket(fileno=int(descriptor)), backlog=backlog)
    return web.TCPSite(runner, settings.host, settings.port, backlog=backlog)


def _collect_seldom() -> None:
    """Let Python look for garbage in cycles less often: what calls leave behind ends by itself, the index stays.

    A full look at an index of a hundred thousand prefixes holds up every call for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NUM_NEW_OBJECTS, *gc.get_threshold()[1:])


async def _drain_on_signal(app: web.Application) -> None:
    """Wait for a signal, then until all calls have ended, their time is over or a second signal comes."""
    first, second = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lambda: (second if first.is_set() else first).set())
    await first.wait()
    log.info("stopping: %d calls are running", app[GATEWAY].num_running)
    drain = asyncio.create_task(app[GATEWAY].drain())
    hurry = asyncio.create_task(second.wait())
    await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
    for task in (drain, hurry):
        task.cancel()


if __name__ == "__main__":
    sys.exit(main())
