"""The folder of modules that is watched: what is put there comes, what changes is read anew, what is taken away goes.

Nothing here waits: `step` has the folder looked at once a second, and one change at a time asked for, by the same door
that people use. A thread does either: a folder may lie on a file system that does not answer for minutes. A module is
taken when nothing in it has changed for `STABLE_S`, so that none is read while it is copied.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

from prefillshare.beside import do_beside
from prefillshare.direct import direct_client
from prefillshare.serving.options import LaunchOptions, Listener, auth_header
from prefillshare.wire.errors import error_text

LOOK_EVERY_S = 1.0
STABLE_S = 2.0

AGAIN_S = 30.0

Signature = tuple[tuple[str, int, int, int], ...]
"""Path, size, inode and time of change of each file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A change that is not made."""

    status: int
    """Of HTTP."""
    reason: str
    """Why, for people."""


Ask = Callable[[str, str, object], Refusal | None]
"""Asks for a change by method, path and body; None when it is made. Raises where nobody answers."""

Modules = dict[str, Signature | None]
"""Modules of a folder by name; None of one that cannot be looked at now, and holds up no other one."""

_GONE: Signature = ()
_NOT_FOUND = 404
_NOT_NOW = (409, 503, 507)
"""An alias or another module stands in its way, the server has no room, or its disk has none: all of that may pass."""


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
    _again_at: dict[str, float] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)
    _next_at: float = 0.0
    _asked: "tuple[str, Signature, Future[Refusal | None]] | None" = None
    _looking: "Future[Modules] | None" = None

    @property
    def is_busy(self) -> bool:
        """Whether it is looked, or a change asked for, at this moment."""
        return self._asked is not None or self._looking is not None

    def step(self) -> None:
        """Begin to look, if it is time to; after a look, ask for the first change that is due."""
        if self._asked is not None:
            self._hear(*self._asked)
        elif self._looking is not None:
            self._see(self._looking)
        if self.is_busy or self.now() < self._next_at:
            return
        self._next_at = self.now() + LOOK_EVERY_S
        self._looking = do_beside(partial(_list_modules, self.folder), "modules folder")

    def _see(self, looking: "Future[Modules]") -> None:
        if not looking.done():
            return
        self._looking = None
        if looking.exception() is not None:  # it changes under us: the next look sees it whole
            return
        self._note(looking.result())
        due = (name for name in [*self._seen, *self._served] if self._is_due(name))
        if (name := next(due, None)) is not None:
            self._ask_for(name)

    def _note(self, found: Modules) -> None:
        for name in {*found, *self._seen}:
            if (signature := found.get(name, _GONE)) is None:
                continue
            if name not in self._seen or self._seen[name][0] != signature:
                self._seen[name] = (signature, self.now())

    def _is_due(self, name: str) -> bool:
        signature, since = self._seen[name]
        if signature == self._served.get(name, _GONE):
            return False
        is_tried = signature == self._tried.get(name) and self.now() < self._again_at.get(name, math.inf)
        return not is_tried and self.now() - since >= STABLE_S

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
        self._again_at.pop(name, None)
        self._asked = (name, signature, do_beside(partial(self.ask, *words), "modules folder"))

    def _hear(self, name: str, signature: Signature, answer: "Future[Refusal | None]") -> None:
        if not answer.done():
            return
        self._asked = None
        if answer.exception() is not None:  # nobody answers at this moment
            del self._tried[name]
            return
        refusal = answer.result()
        if refusal is not None and refusal.status == _NOT_FOUND and name in self._served:
            # Somebody else has removed it: what is there comes anew, what has gone has gone.
            del self._served[name], self._tried[name]
            refusal = None
        elif refusal is None and signature != _GONE:
            self._served[name] = signature
        elif refusal is None:
            del self._served[name], self._tried[name]
        if refusal is not None:
            self._note_refusal(name, refusal)
            return
        self._said.pop(name, None)
        if signature == _GONE:
            del self._seen[name]

    def _note_refusal(self, name: str, refusal: Refusal) -> None:
        if refusal.status in _NOT_NOW:
            self._again_at[name] = self.now() + AGAIN_S
        if self._said.get(name) != refusal.reason:
            self.say(f"{self.folder / name} is left as it is: {refusal.reason}")
        self._said[name] = refusal.reason


def watch_folder(folder: Path | None, url: str, options: LaunchOptions, say: Listener) -> WatchedFolder | None:
    """Return what watches `folder` for the deployment at `url`; None without a folder."""
    if folder is None:
        return None
    headers = auth_header(options.admin_key or options.api_key)

    def ask(method: str, path: str, body: object) -> Refusal | None:
        with direct_client(base_url=url, headers=headers, timeout=None) as client:
            reply = client.request(method, path, json=body)
        return None if reply.is_success else Refusal(status=reply.status_code, reason=error_text(reply.content))

    return WatchedFolder(folder=folder, ask=ask, say=say)


def _list_modules(folder: Path) -> Modules:
    folders = [each for each in folder.iterdir() if each.is_dir() and _may_be_name(each.name)]
    found = {each.name: _sign(each) for each in folders}
    # Without weights it is no module yet.
    return {
        name: signature
        for name, signature in found.items()
        if signature is None or any(path.endswith(".safetensors") for path, *_ in signature)
    }


def _may_be_name(name: str) -> bool:
    """Whether a folder is meant; a name that is no text could not even be asked for."""
    return not name.startswith(".") and name.isprintable()


def _sign(folder: Path) -> Signature | None:
    try:
        files = [(file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    except OSError:  # it changes under us, or is not ours to read
        return None
    # Adapters of one shape have one size, and a copy may keep the time of writing; that of changing nobody can set.
    return tuple(
        (str(file.relative_to(folder)), found.st_size, found.st_ino, found.st_ctime_ns) for file, found in files
    )
