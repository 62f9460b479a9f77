"""The launcher's side of a host's process: starts it, starts it again when it dies, ends it."""

import json
import logging
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prefillshare.errors import StoreError
from prefillshare.open_files import open_log
from prefillshare.store.remote.addresses import text_of
from prefillshare.store.settings import StoreSettings

_START_TIMEOUT_S = 60.0
_PAUSE_S = 5.0
_END_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class SharingProcess:
    """Shares the store of one launch with its peers for as long as the launch lives."""

    def __init__(self, settings: StoreSettings, log_path: Path) -> None:
        """Start it, and wait until it serves.

        Raises: StoreError with its reason.
        """
        self._settings = settings
        self._log_path = log_path
        self._started_at = time.monotonic()
        self._process = self._start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def step(self) -> None:
        """Look after it once: engines go on without peers while it is away."""
        if self._process.poll() is None or time.monotonic() - self._started_at < _PAUSE_S:
            return
        logger.warning("the process that shares the store ended and is started again: %s", self._log_path)
        self._started_at = time.monotonic()
        self._close_pipes()
        try:
            self._process = self._start()
        except OSError as error:  # no process, no room for its log: the engines serve, and it is tried again
            logger.warning("the process that shares the store cannot be started now: %s", error)

    def end(self) -> None:
        """End it."""
        self._close_pipes()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        with open_log(self._log_path, is_new=False) as log:
            # A session of its own: Ctrl-C is for the launcher, which ends it after the engines.
            process = subprocess.Popen(
                [sys.executable, "-m", __package__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(f"{text_of(self._settings)}\n".encode())
        process.stdin.flush()
        return process

    def _wait_until_ready(self) -> None:
        said = self._read_line()
        if not said.get("ready"):
            raise StoreError(
                said.get("error") or f"the process that shares the store did not start: read {self._log_path}"
            )

    def _read_line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(_START_TIMEOUT_S) else b""
        return json.loads(line) if line else {}

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
