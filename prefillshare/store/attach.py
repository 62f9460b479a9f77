"""From settings and identity to open tiers."""

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from prefillshare.errors import StoreError
from prefillshare.store.codec import PLAIN, Codec, Decoders, can_encode, make_codec
from prefillshare.store.codec.choice import Encoding
from prefillshare.store.disk import DiskPages, file_bytes
from prefillshare.store.folders import (
    DISK_SUFFIX,
    FolderUse,
    disk_folder,
    disk_table_folder,
    free_bytes,
    memory_folder,
    private_folder,
    taken_bytes,
)
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.layout import HEADER_BYTES
from prefillshare.store.memory import MappedPages
from prefillshare.store.opening import (
    FileHeader,
    OpenTable,
    attaching,
    is_file_used,
    is_path_used,
    make_file,
    open_file,
    open_table,
    read_header,
    remove_unused,
    store_file,
    use_file,
)
from prefillshare.store.settings import StoreSettings
from prefillshare.store.sizes import check_room, memory_file_bytes, num_slots_within, slot_bytes_for
from prefillshare.store.tier import Tier
from prefillshare.store.workers import Workers

_SHARE_OF_FREE_DISK = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStore:
    """Tiers, the fastest first, and what has to be given back in the end."""

    identity: StoreIdentity
    tiers: tuple[Tier, ...]
    resources: contextlib.ExitStack
    """Files, threads and folders; mappings go with the tiers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    settings: StoreSettings
    identity: StoreIdentity
    codec: Codec | None
    """By which all pages are kept, whose slots are smaller then; None also where each page is decided upon."""
    workers: Workers
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def slot_bytes(self) -> int:
        page_bytes = self.identity.page_bytes
        return slot_bytes_for(page_bytes if self.codec is None else self.codec.most_bytes(page_bytes))

    def header(self, num_slots: int) -> FileHeader:
        number = PLAIN if self.codec is None else self.codec.number
        return FileHeader(identity=self.identity, num_slots=num_slots, slot_bytes=self.slot_bytes, codec=number)

    def slots_within(self, num_bytes: int, whole_bytes: Callable[[int, int], int], what: str) -> int:
        # With a codec, a page that does not fit into its slot takes a second one.
        slots_per_page = -(-self.identity.page_bytes // self.slot_bytes)
        size = partial(whole_bytes, slot_bytes=self.slot_bytes)  # type: ignore[call-arg]
        return num_slots_within(num_bytes, size, self.slot_bytes, slots_per_page, what)

    def slots_in(self, path: Path) -> int:
        """The slots of a file that is there and this store's but for its size; else 0."""
        there = read_header(path)
        return there.num_slots if there is not None and there == self.header(there.num_slots) else 0

    def slots_in_use(self, path: Path) -> int:
        """`slots_in` of a file that other processes use: made anew, they would go on in one that nobody finds.

        Raises: StoreError when they keep its pages otherwise than this store would.
        """
        there = read_header(path)
        if there is None or not is_path_used(path):
            return 0
        if there != self.header(there.num_slots):
            raise StoreError(
                f'{path} is used by others, who keep pages otherwise than codec = "{self.settings.codec}" under '
                "[store] does: set what they have, or end them first"
            )
        return there.num_slots

    def table(self, path: Path, header: FileHeader) -> OpenTable:
        opened = open_table(path, header)
        self.resources.callback(opened.close)
        return opened

    def tier(self, opened: OpenTable, pages: MappedPages | DiskPages) -> Tier:
        decoders = Decoders(self.identity.kv_dtype, self.identity.page_bytes)
        return Tier(opened, pages, self.encoding(pages), decoders, self.workers)

    def encoding(self, pages: MappedPages | DiskPages) -> Encoding:
        """Memory is faster than any codec on a CPU: there it is for room, and so only where it is asked for."""
        is_slow = pages.medium == "disk" and can_encode(self.identity.kv_dtype, self.identity.page_bytes)
        if self.settings.codec == "auto" and is_slow:
            codec = make_codec("splitzip", self.identity.kv_dtype, self.identity.page_bytes)
            return Encoding(codec, what=str(self.settings.directory), is_measured=True)
        return Encoding(self.codec)


def open_store(settings: StoreSettings, identity: StoreIdentity) -> OpenStore:
    """Open the store, or make it.

    Raises: StoreError.
    """
    codec = make_codec(settings.codec, identity.kv_dtype, identity.page_bytes)
    request = _Request(settings=settings, identity=identity, codec=codec, workers=Workers(settings.threads))
    request.resources.callback(request.workers.close)
    with contextlib.ExitStack() as failed:
        failed.callback(request.resources.close)
        try:
            memory = _memory_tier(request)
            tiers = (memory,) if settings.directory is None else (memory, _disk_tier(request, settings.directory))
        except OSError as error:
            raise StoreError(f"the store cannot be opened ({error}): {_fix_of(error)}") from error
        failed.pop_all()
    return OpenStore(identity=identity, tiers=tiers, resources=request.resources)


def _fix_of(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files (ulimit -n)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there, or set a smaller store"
    if error.errno == errno.ESTALE:
        return "let no other program change its files, and try again"
    return "name folders that this user can write to"


def _memory_tier(request: _Request) -> Tier:
    settings = request.settings
    if not settings.memory_directory.is_dir():
        raise StoreError(
            f"{settings.memory_directory} is no folder: name a file system in memory for the store, usually /dev/shm"
        )
    folder = _used_folder(request, memory_folder(settings.memory_directory, settings.name))
    with attaching(folder):
        path = store_file(folder, request.identity)
        num_slots = request.slots_within(settings.memory_bytes, memory_file_bytes, "memory_bytes")
        if settings.keeps_memory_size:
            num_slots = request.slots_in(path) or num_slots
        num_slots = request.slots_in_use(path) or num_slots
        if not path.exists():
            remove_unused(folder)
            check_room(folder, settings.memory_bytes, "memory_bytes")
        opened = request.table(path, request.header(num_slots))
        pages = MappedPages(
            os.dup(opened.descriptor), start=opened.layout.end, num_slots=num_slots, slot_bytes=request.slot_bytes
        )
        request.resources.callback(pages.close)
        tier = request.tier(opened, pages)
        if pages.num_usable() == 0 and pages.grow() == 0:
            raise StoreError(
                f"{folder} has no room for the first pages of the store: make room, or give the file system more (a "
                "container: --shm-size)"
            )
    return tier


def _disk_tier(request: _Request, directory: Path) -> Tier:
    folder = private_folder(disk_folder(directory))
    with attaching(folder):
        path = store_file(folder, request.identity).with_suffix(DISK_SUFFIX)
        descriptor, header, is_new = _open_disk_file(request, path)
        pages = DiskPages(descriptor, path, num_slots=header.num_slots, slot_bytes=header.slot_bytes)
        request.resources.callback(pages.close)
        found = os.fstat(descriptor)
        memory = request.settings.memory_directory
        tables = _used_folder(request, disk_table_folder(memory, found.st_dev, found.st_ino))
        with attaching(tables):
            if is_new:  # the table of a file that had the same number once
                store_file(tables, request.identity).unlink(missing_ok=True)
            opened = request.table(store_file(tables, request.identity), header)
            tier = request.tier(opened, pages)
            if opened.is_new:
                _check_is_alone(descriptor, path)
                for slot, record in pages.records():
                    opened.table.enter(slot, record)
            use_file(descriptor)
    return tier


def _open_disk_file(request: _Request, path: Path) -> tuple[int, FileHeader, bool]:
    """The file's descriptor, its header, and whether it is new."""
    header = request.header(_num_disk_slots(request, path))
    found = open_file(path, lambda descriptor: header.is_that_of(os.pread(descriptor, HEADER_BYTES, 0)))
    if found is not None:
        return found, header, False
    num_bytes = file_bytes(header.num_slots, header.slot_bytes)
    check_room(path.parent, num_bytes - taken_bytes(path), "disk_bytes")
    path.unlink(missing_ok=True)
    return make_file(path, header, num_bytes, lambda _: None), header, True


def _num_disk_slots(request: _Request, path: Path) -> int:
    """What is set; where nothing is, what the file has, and for a new one what half of the free room holds."""
    num_bytes = request.settings.disk_bytes
    if there := request.slots_in_use(path):
        return there
    if (num_bytes is None or request.settings.keeps_disk_size) and (there := request.slots_in(path)):
        return there
    wanted = int(_SHARE_OF_FREE_DISK * free_bytes(path.parent)) if num_bytes is None else num_bytes
    return request.slots_within(wanted, file_bytes, "disk_bytes")


def _check_is_alone(descriptor: int, path: Path) -> None:
    """Raises: StoreError when others use the file by a table that this process cannot see."""
    if is_file_used(descriptor):
        raise StoreError(
            f"{path} is used by processes whose table is not in this shared memory (they run in another container, or "
            "the table was damaged): end them, or give each container a folder of its own under [store]"
        )


def _used_folder(request: _Request, folder: Path) -> Path:
    use = FolderUse(folder)
    request.resources.callback(use.leave)
    return folder
