"""The stores of this host's deployment, opened when somebody asks for one by its identity."""

import contextlib
import threading
from pathlib import Path

from prefillshare.errors import StoreError
from prefillshare.store.folders import SUFFIX, memory_folder
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.opening import read_header
from prefillshare.store.settings import StoreSettings
from prefillshare.store.store import KvStore


class LocalStores:
    """What engines of this host have made; nothing is made here."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._folder: Path = memory_folder(settings.memory_directory, settings.name)
        self._lock = threading.Lock()
        self._open: dict[bytes, tuple[int, StoreIdentity, KvStore]] = {}

    def get(self, digest: bytes) -> tuple[StoreIdentity, KvStore] | None:
        """The store with this identity; None when no engine of this host has one."""
        path = self._folder / f"{digest.hex()[:32]}{SUFFIX}"
        with self._lock:
            try:
                number = path.stat().st_ino
            except OSError:
                return None
            if (known := self._open.get(digest)) is not None:
                if known[0] == number:
                    return known[1], known[2]
                known[2].close()  # an engine has made the file anew
                del self._open[digest]
            return self._attach(digest, path, number)

    def _attach(self, digest: bytes, path: Path, number: int) -> tuple[StoreIdentity, KvStore] | None:
        header = read_header(path)
        if header is None or header.identity.digest() != digest:
            return None
        with contextlib.suppress(StoreError):
            self._open[digest] = number, header.identity, KvStore.attach(self._settings, header.identity)
            return header.identity, self._open[digest][2]
        return None
