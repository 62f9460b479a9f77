"""The folder of modules that is watched: what is put there comes, what changes is read anew, what is taken away goes.

Nothing here waits: `step` looks once a second, and one change at a time is asked for beside it, by the same door that
people use. A folder is taken when nothing in it has changed for `STABLE_S`, so that none is read while it is copied.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from prefillshare.direct import direct_client
from prefillshare.serving.options import LaunchOptions, Listener, auth_header
from prefillshare.wire.errors import error_text

LOOK_EVERY_S = 1.0
STABLE_S = 2.0

Signature = tuple[tuple[str, int, int], ...]
"""Path, size and time of change of each file."""
Ask = Callable[[str, str, object], str | None]
"""Asks for a change by method, path and body; why it is refused, None when it is made. Raises where nobody answers."""

_GONE: Signature = ()


@dataclass(slots=True, kw_only=True)
class WatchedFolder:
    """One folder, each folder of which is a module."""

    folder: Path
    """Where modules come and go."""
    ask: Ask
    """How a change is asked for; may take long."""
    say: Listener
    """Hears what cannot be served, once."""
    now: Callable[[], float] = time.monotonic
    """Seconds."""
    _seen: dict[str, tuple[Signature, float]] = field(default_factory=dict)
    _served: dict[str, Signature] = field(default_factory=dict)
    _tried: dict[str, Signature] = field(default_factory=dict)
    _next_at: float = 0.0
    _asked: "tuple[str, Signature, Future[str | None]] | None" = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def step(self) -> None:
        """Look, if it is time to, and ask for the first change that is due."""
        if self._asked is not None:
            self._hear(*self._asked)
        if self._asked is not None or self.now() < self._next_at:
            return
        self._next_at = self.now() + LOOK_EVERY_S
        self._look()
        due = (name for name in [*self._seen, *self._served] if self._is_due(name))
        if (name := next(due, None)) is not None:
            self._ask_for(name)

    def _look(self) -> None:
        try:
            found = _list_modules(self.folder)
        except OSError:  # it changes under us: the next look sees it whole
            return
        for name in {*found, *self._seen}:
            signature = found.get(name, _GONE)
            if name not in self._seen or self._seen[name][0] != signature:
                self._seen[name] = (signature, self.now())

    def _is_due(self, name: str) -> bool:
        signature, since = self._seen[name]
        is_new = signature != self._served.get(name, _GONE) and signature != self._tried.get(name)
        return is_new and self.now() - since >= STABLE_S

    def _ask_for(self, name: str) -> None:
        signature = self._seen[name][0]
        path = f"/modules/{quote(name)}"
        if signature == _GONE:
            words: tuple[str, str, object] = ("DELETE", path, None)
        elif name in self._served:
            words = ("POST", f"{path}/reload", None)
        else:
            words = ("PUT", path, {"path": str(self.folder / name)})
        self._tried[name] = signature
        self._asked = (name, signature, self._pool.submit(self.ask, *words))

    def _hear(self, name: str, signature: Signature, answer: "Future[str | None]") -> None:
        if not answer.done():
            return
        self._asked = None
        if answer.exception() is not None:  # nobody answers at this moment
            del self._tried[name]
            return
        if (reason := answer.result()) is not None:
            self.say(f"{self.folder / name} is left as it is: {reason}")
        elif signature == _GONE:
            del self._served[name], self._seen[name], self._tried[name]
        else:
            self._served[name] = signature


def watch_folder(folder: Path | None, url: str, options: LaunchOptions, say: Listener) -> WatchedFolder | None:
    """Return what watches `folder` for the deployment at `url`; None without a folder."""
    if folder is None:
        return None
    headers = auth_header(options.admin_key or options.api_key)

    def ask(method: str, path: str, body: object) -> str | None:
        with direct_client(base_url=url, headers=headers, timeout=None) as client:
            reply = client.request(method, path, json=body)
        return None if reply.is_success else error_text(reply.content)

    return WatchedFolder(folder=folder, ask=ask, say=say)


def _list_modules(folder: Path) -> dict[str, Signature]:
    folders = [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]
    found = {each.name: _sign(each) for each in folders}
    # Without weights it is no module yet.
    return {
        name: signature
        for name, signature in found.items()
        if any(path.endswith(".safetensors") for path, *_ in signature)
    }


def _sign(folder: Path) -> Signature:
    files = [(file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    return tuple((str(file.relative_to(folder)), found.st_size, found.st_mtime_ns) for file, found in files)
