"""The launcher's side of the fork server: engines that share one import of SGLang.

`sglang_patches.forkserver` says how the other side works. Only where no accelerator is.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefillshare.contract import FORK_SERVER_PROGRAM
from prefillshare.errors import LaunchError
from prefillshare.open_files import is_readable, open_log
from prefillshare.places import socket_folder
from prefillshare.serving.machine.environment import shared_variables

UNKNOWN_EXIT_CODE = -signal.SIGKILL
"""Exit code of an engine whose fork server is gone too, so that nobody knows it."""

_TOLD_TO_EACH = "PREFILLSHARE_"
"""Begin of the variables that say what one engine is to do: another one that is not told so would find them there."""


class ForkServer:
    """A started fork server; `wait_until_ready` before the first fork."""

    def __init__(self, environment: Mapping[str, str], log_path: Path) -> None:
        """Start it; `environment` is that of all its engines, but for what is told to each.

        Raises: LaunchError when the program cannot be started.
        """
        self.log_path = log_path
        self._told = frozenset(name for name in environment if name.startswith(_TOLD_TO_EACH))
        ours, theirs = socket.socketpair()
        try:
            with open_log(log_path) as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", FORK_SERVER_PROGRAM, str(theirs.fileno())],
                    env={**os.environ, **shared_variables(), "TMPDIR": str(socket_folder()), **environment},
                    # When our end closes, however this process ends, the server reads an end of file and ends, too.
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise LaunchError(f"the fork server could not be started ({error}): check the installation") from None
        finally:
            theirs.close()
        self._socket, self._lines = ours, ours.makefile("rw", encoding="utf-8")
        self._is_ready = False

    @property
    def pid(self) -> int:
        """Process id of the fork server."""
        return self._process.pid

    def is_ready(self, timeout_s: float) -> bool:
        """Whether the engine is imported, after waiting up to `timeout_s` seconds for it.

        Raises: LaunchError when the server ended instead.
        """
        if not self._is_ready and is_readable(self._socket, timeout_s):
            self._is_ready = bool(self._read())
        return self._is_ready

    def is_alive(self) -> bool:
        """Whether it can still fork."""
        return self._process.poll() is None

    def start(self, argv: Sequence[str], environment: Mapping[str, str], log_path: Path) -> "ForkedEngine":
        """Fork an engine with SGLang's arguments `argv`; its output is appended to `log_path`.

        Raises: LaunchError when the server has ended.
        """
        without = sorted(self._told.difference(environment))
        request = {
            "do": "start",
            "argv": list(argv),
            "environment": dict(environment),
            "without": without,
            "log": str(log_path),
        }
        return ForkedEngine(self._ask(request)["pid"], self)

    def exit_code(self, pid: int) -> int | None:
        """Exit code of a forked engine; None while it runs."""
        try:
            code: int | None = self._ask({"do": "exit_code", "pid": pid})["exit_code"]
        except LaunchError:
            return UNKNOWN_EXIT_CODE
        return code

    def close(self) -> None:
        """End the server; engines that it forked run on."""
        with contextlib.suppress(OSError):
            self._lines.close()
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._lines.write(json.dumps(request) + "\n")
            self._lines.flush()
        except (OSError, ValueError):
            raise LaunchError(f"the fork server has ended: read its log, {self.log_path}") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError:
            line = ""
        if not line:
            raise LaunchError(f"the fork server has ended: read its log, {self.log_path}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class ForkedEngine:
    """An engine's first process, with the methods of `subprocess.Popen` that a launcher needs."""

    def __init__(self, pid: int, server: ForkServer) -> None:
        self.pid = pid
        self._server = server
        try:
            self._descriptor: int | None = os.pidfd_open(pid)
        except OSError:  # too many open files: nobody could look after it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            raise
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        # A pidfd is readable when its process has ended. That is not our child, so only the server can reap it.
        if self._descriptor is not None and is_readable(self._descriptor, 0):
            self._exit_code = self._server.exit_code(self.pid)
            os.close(self._descriptor)
            self._descriptor = None
        return self._exit_code

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, for at most `timeout` seconds.

        Raises: subprocess.TimeoutExpired.
        """
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"engine {self.pid}", timeout or 0)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)
