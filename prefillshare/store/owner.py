"""The launcher's hold on its deployment's store: engines come and go, the store stays until the launcher ends."""

import json
import os
from pathlib import Path

from prefillshare.errors import StoreError
from prefillshare.store.folders import FolderUse, memory_folder, remove_folder, sweep
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.layout import CLOCK_OFFSET, DESCRIPTION_OFFSET
from prefillshare.store.opening import SUFFIX
from prefillshare.store.settings import StoreSettings
from prefillshare.store.store import KvStore


class StoreOwner:
    """Keeps a deployment's store from being swept; a store that a launcher left when it was killed is taken over
    warm."""

    def __init__(self, settings: StoreSettings, *, stays: bool = False) -> None:
        """Take the store, and sweep those of launchers and engines that are gone.

        `stays`: the store outlives its launcher, until `prefillshare store clear`.
        Raises: StoreError.
        """
        self._settings = settings
        self._stays = stays
        self._use = FolderUse(memory_folder(settings.memory_directory, settings.name))
        self._use.stay(stays)
        sweep(settings.memory_directory)

    def end(self) -> None:
        """Keep on disk what was only in memory, where there is a disk tier, and give the memory back.

        To be called when the engines have ended; a store that one still uses is swept later.
        """
        if not self._stays:
            self._spill()
        self._use.leave()
        if not self._stays:
            remove_folder(self._use.folder)

    def _spill(self) -> None:
        if self._settings.directory is None:
            return
        for path in sorted(self._use.folder.glob(f"*{SUFFIX}")):
            if (identity := identity_in(path)) is not None:
                store = KvStore.attach(self._settings, identity)
                store.spill()
                store.close()


def identity_in(path: Path) -> StoreIdentity | None:
    """Whose pages a store's file holds, as its header says; None where that cannot be read."""
    try:
        with path.open("rb") as file:
            text = os.pread(file.fileno(), CLOCK_OFFSET - DESCRIPTION_OFFSET, DESCRIPTION_OFFSET).rstrip(b"\x00")
        identity = StoreIdentity(**json.loads(text))
    except (OSError, ValueError, TypeError, StoreError):
        return None
    return identity if path.name.startswith(identity.digest().hex()[:32]) else None
