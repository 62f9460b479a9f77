"""The launcher's hold on its deployment's store: engines come and go, the store stays until the launcher ends."""

import logging

from prefillshare.errors import StoreError
from prefillshare.store.folders import SUFFIX, FolderUse, memory_folder, remove_folder, sweep, sweep_disk_tables
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.opening import read_header
from prefillshare.store.settings import StoreSettings
from prefillshare.store.store import KvStore

logger = logging.getLogger(__name__)


class StoreOwner:
    """Keeps a deployment's store from being swept; one that a killed launcher left is taken over warm."""

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
            sweep_disk_tables(self._settings.memory_directory)

    def _spill(self) -> None:
        if self._settings.directory is None:
            return
        for path in sorted(self._use.folder.glob(f"*{SUFFIX}")):
            if (header := read_header(path)) is not None:
                self._spill_one(header.identity)

    def _spill_one(self, identity: StoreIdentity) -> None:
        try:
            store = KvStore.attach(self._settings, identity)
        except StoreError as error:  # the memory is given back all the same
            logger.warning("what was only in memory is not kept: %s", error)
            return
        store.spill()
        store.close()
