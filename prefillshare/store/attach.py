"""From settings and identity to open tiers."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from prefillshare.errors import StoreError
from prefillshare.store.codec import PLAIN, Codec, make_codec
from prefillshare.store.folders import FolderUse, memory_folder
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.memory import MappedPages
from prefillshare.store.opening import FileHeader, attaching, open_table, store_file
from prefillshare.store.settings import StoreSettings
from prefillshare.store.sizes import check_room, num_slots_within, slot_bytes_for
from prefillshare.store.tier import Tier
from prefillshare.store.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStore:
    """Tiers, the fastest first, and what has to be given back in the end."""

    identity: StoreIdentity
    tiers: tuple[Tier, ...]
    resources: contextlib.ExitStack

    def close(self) -> None:
        """Give files, mappings, threads and folders back."""
        self.resources.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    settings: StoreSettings
    identity: StoreIdentity
    codec: Codec | None
    workers: Workers
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def slot_bytes(self) -> int:
        page_bytes = self.identity.page_bytes
        return slot_bytes_for(page_bytes if self.codec is None else self.codec.most_bytes(page_bytes))

    @property
    def slots_per_page(self) -> int:
        """With a codec, a page that does not fit into its slot takes a second one."""
        return -(-self.identity.page_bytes // self.slot_bytes)

    def header(self, num_slots: int) -> FileHeader:
        number = PLAIN if self.codec is None else self.codec.number
        return FileHeader(identity=self.identity, num_slots=num_slots, slot_bytes=self.slot_bytes, codec=number)


def open_store(settings: StoreSettings, identity: StoreIdentity) -> OpenStore:
    """Open the store, or make it.

    Raises: StoreError.
    """
    codec = make_codec(settings.codec, identity.kv_dtype, identity.page_bytes)
    request = _Request(settings=settings, identity=identity, codec=codec, workers=Workers(settings.threads))
    request.resources.callback(request.workers.close)
    try:
        tiers = (_memory_tier(request),)
    except OSError as error:
        request.resources.close()
        raise StoreError(f"the store cannot be opened: {error}") from error
    except StoreError:
        request.resources.close()
        raise
    return OpenStore(identity=identity, tiers=tiers, resources=request.resources)


def _memory_tier(request: _Request) -> Tier:
    settings = request.settings
    slots = num_slots_within(settings.memory_bytes, request.slot_bytes, request.slots_per_page, "memory_bytes")
    _check_memory(settings.memory_directory)
    use = FolderUse(memory_folder(settings.memory_directory, settings.name))
    request.resources.callback(use.leave)
    path = store_file(use.folder, request.identity)
    with attaching(use.folder):
        if not path.exists():
            check_room(use.folder, settings.memory_bytes, "memory_bytes")
        opened = open_table(path, request.header(slots))
        request.resources.callback(opened.close)
        pages = MappedPages(
            os.dup(opened.descriptor), start=opened.layout.end, num_slots=slots, slot_bytes=request.slot_bytes
        )
        request.resources.callback(pages.close)
        if pages.num_usable() == 0 and pages.grow() == 0:
            raise StoreError(
                f"{use.folder} has no room for the first pages of the store: make room, or give the file system more "
                "(a container: --shm-size)"
            )
    return Tier(opened.table, pages, request.codec, request.workers)


def _check_memory(folder: Path) -> None:
    if not folder.is_dir():
        raise StoreError(f"{folder} is no folder: name a file system in memory for the store, usually /dev/shm")
