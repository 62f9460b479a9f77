"""A program in a terminal of its own, looked at through tmux."""

import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.waiting import wait_until

_POLL_S = 0.2
ROOT = Path(__file__).parents[2]


class Terminal:
    """Context manager that runs `argv`; keys go in, the screen comes out as text."""

    def __init__(self, argv: Sequence[str], folder: Path, *, width: int = 120, height: int = 40) -> None:
        self._socket = f"test-{uuid.uuid4().hex}"
        self._code = folder / f"{self._socket}.code"
        path = os.pathsep.join([str(ROOT), str(ROOT / "tui")])
        # The screen stays for the test after the program has ended.
        script = f"PYTHONPATH={path} {shlex.join(argv)}; echo $? > {self._code}; exec sleep 1000"
        self._tmux("new-session", "-d", "-x", str(width), "-y", str(height), "-c", str(folder), script)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tmux("kill-server")

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._tmux("send-keys", *keys)

    def paste(self, text: str) -> None:
        """Paste, as terminals do it for programs that want to know."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def screen(self) -> str:
        """What is to be seen."""
        return self._tmux("capture-pane", "-p")

    def wait_for(self, found: str | Callable[[str], object], timeout_s: float = 120.0) -> str:
        """The screen once it contains, or passes, what is wanted."""
        deadline = time.monotonic() + timeout_s
        while True:
            screen = self.screen()
            if found in screen if isinstance(found, str) else found(screen):
                return screen
            assert time.monotonic() < deadline, f"did not come: {found}\n{screen}"
            time.sleep(_POLL_S)

    def wait_for_end(self, timeout_s: float = 120.0) -> int:
        """The program's exit code."""
        return int(
            wait_until(
                lambda: self._code.is_file() and self._code.read_text().strip(),
                lambda: f"did not end\n{self.screen()}",
                within_s=timeout_s,
                pause_s=_POLL_S,
            )
        )

    def _tmux(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFILLSHARE_")}
        done = subprocess.run(
            ["tmux", "-u", "-L", self._socket, "-f", os.devnull, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env={**environment, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
        )
        return done.stdout


def prefillshare(*arguments: str) -> list[str]:
    """The command line of this checkout."""
    return [sys.executable, "-m", "prefillshare", *arguments]


def numbers_after(text: str, screen: str) -> list[int]:
    """The numbers that follow `text` on the screen, line breaks and frames taken out."""
    plain = re.sub(r"\s+", " ", re.sub("[│╭╮╰╯─]", " ", screen))
    _, _, rest = plain.partition(text)
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", rest)]
