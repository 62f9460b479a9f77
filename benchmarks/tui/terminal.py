"""A program in a pseudo-terminal of its own, and what it costs."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from prefillshare.open_files import is_readable


class Terminal:
    """Context manager that runs `argv`; somebody must read, or the program waits."""

    def __init__(self, argv: Sequence[str], width: int, height: int, folder: Path) -> None:
        self._main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": _import_path()}
        environment.pop("NO_COLOR", None)
        self._process = subprocess.Popen(
            argv, stdin=other, stdout=other, stderr=other, cwd=folder, env=environment, start_new_session=True
        )
        os.close(other)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._main)

    def write(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._main, keys)

    def read_for(self, seconds: float) -> bytes:
        """Take what the program writes for some time."""
        until, text = time.monotonic() + seconds, b""
        while (left := until - time.monotonic()) > 0:
            text += self._read(left)
        return text

    def read_until(self, wanted: str, timeout_s: float) -> None:
        """Take what the program writes until it wrote `wanted`."""
        until, text = time.monotonic() + timeout_s, b""
        while wanted.encode() not in text:
            if time.monotonic() > until or self._process.poll() is not None:
                raise SystemExit(f"the program did not write {wanted!r}: {text[-2000:]!r}")
            text += self._read(0.2)

    def wait(self, timeout_s: float) -> None:
        """Wait for the end."""
        until = time.monotonic() + timeout_s
        while self._process.poll() is None and time.monotonic() < until:
            self._read(0.1)

    def cpu_s(self) -> float:
        """CPU seconds of the program so far, its threads included."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def memory_mib(self) -> float:
        """Resident memory."""
        return psutil.Process(self._process.pid).memory_info().rss / 2**20

    def _read(self, timeout_s: float) -> bytes:
        if not is_readable(self._main, timeout_s):
            return b""
        try:
            return os.read(self._main, 1 << 16)
        except OSError:  # the program ended
            return b""


def _import_path() -> str:
    root = Path(__file__).parents[2]
    return os.pathsep.join([str(root), str(root / "tui"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
