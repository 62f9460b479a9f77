"""The dashboard of a deployment that is being launched: a process of its own at the same terminal.

The launcher goes on looking after the deployment meanwhile; what it has to say waits until the screen is free.
"""

import os
import subprocess
import sys
from types import TracebackType
from typing import Protocol

from prefillshare.cli.output import say
from prefillshare.cli.server_options import url_words
from prefillshare.serving.stopping import StopRequested

_EXIT_STOP = 10
_END_S = 5.0


class Served(Protocol):
    """What is watched."""

    @property
    def url(self) -> str:
        """Its address."""
        ...

    @property
    def api_key(self) -> str | None:
        """Its key."""
        ...


class Dashboard:
    """Context manager: the dashboard runs while the block does, or until its user leaves it."""

    def __init__(self) -> None:
        self._served: Served | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: list[str] = []

    def watch(self, served: Served) -> None:
        """Tell it what to show when it starts."""
        self._served = served

    def say(self, text: str) -> None:
        """Say something, or keep it until the screen is free."""
        if self._process is None:
            say(text)
        else:
            self._waiting.append(text)

    def __enter__(self) -> "Dashboard":
        assert self._served is not None
        # The key goes by the environment: arguments are seen by every user of the machine.
        environment = {**os.environ, "PREFILLSHARE_API_KEY": self._served.api_key or ""}
        argv = [sys.executable, "-m", "prefillshare_tui", "--launched", "--url", self._served.url]
        self._process = subprocess.Popen(argv, env=environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            # It gives the terminal back as it was.
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._free_screen()

    def look(self) -> None:
        """See whether it was left.

        Raises: StopRequested when its user wants the deployment to stop.
        """
        if self._process is None or (code := self._process.poll()) is None:
            return
        self._free_screen()
        if code == _EXIT_STOP:
            raise StopRequested(code)
        if code:
            say(f"the dashboard ended by itself (exit code {code})")
        assert self._served is not None
        again = f"prefillshare top{url_words(self._served.url)}"
        say(f"still serving at {self._served.url}; Ctrl-C stops, `{again}` shows the dashboard again")

    def _free_screen(self) -> None:
        self._process = None
        for text in self._waiting:
            say(text)
        self._waiting.clear()
