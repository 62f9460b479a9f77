"""The stores of this host's deployment, opened when somebody asks for one by its identity.

Opening waits for engines that make or open one: a thread does it, and who asks waits for a moment and no longer. A peer
that hears "nothing" in time computes; one that hears nothing takes the host for gone.
"""

import contextlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from prefillshare.errors import StoreError
from prefillshare.store.folders import SUFFIX, memory_folder
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.opening import read_header
from prefillshare.store.settings import StoreSettings
from prefillshare.store.store import KvStore

OPEN_WAIT_S = 0.8
"""Longest wait of a peer for a store that is being opened; it gives an answer a second."""

Found = tuple[StoreIdentity, KvStore]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opening:
    number: int
    """Inode of its file: an engine may make that anew."""
    found: "Future[Found | None]"
    """None where it cannot be opened."""

    @property
    def is_in_vain(self) -> bool:
        """Whether it has ended without a store."""
        return self.found.done() and (self.found.exception() is not None or self.found.result() is None)


class LocalStores:
    """What engines of this host have made; nothing is made here. Any thread may ask."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._folder: Path = memory_folder(settings.memory_directory, settings.name)
        self._lock = threading.Lock()
        self._openings: dict[bytes, _Opening] = {}
        """By identity."""

    def get(self, digest: bytes, timeout_s: float = OPEN_WAIT_S) -> Found | None:
        """The store with this identity; None when no engine of this host has one, or it cannot be had in time."""
        path = self._folder / f"{digest.hex()[:32]}{SUFFIX}"
        try:
            number = path.stat().st_ino
        except OSError:
            return None
        with self._lock:
            opening = self._opening_of(digest, path, number)
        try:
            return opening.found.result(timeout_s)
        except TimeoutError:
            return None

    def _opening_of(self, digest: bytes, path: Path, number: int) -> _Opening:
        known = self._openings.get(digest)
        if known is not None and not known.found.done():
            return known
        if known is not None and known.number == number and not known.is_in_vain:
            return known
        if known is not None and not known.is_in_vain and (before := known.found.result()) is not None:
            before[1].close()  # an engine has made the file anew
        opening = self._openings[digest] = _Opening(number=number, found=Future())
        try:
            threading.Thread(
                target=self._open, args=(digest, path, opening.found), name="open store", daemon=True
            ).start()
        except RuntimeError:  # no more threads for this user at this moment
            opening.found.set_result(None)
        return opening

    def _open(self, digest: bytes, path: Path, found: "Future[Found | None]") -> None:
        try:
            found.set_result(self._attach(digest, path))
        except Exception as error:  # the end of a thread: whoever asked gets it
            found.set_exception(error)

    def _attach(self, digest: bytes, path: Path) -> Found | None:
        header = read_header(path)
        if header is None or header.identity.digest() != digest:
            return None
        with contextlib.suppress(StoreError):
            return header.identity, KvStore.attach(self._settings, header.identity)
        return None
