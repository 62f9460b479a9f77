"""What a person asks of stores without an engine: which are there, are their pages whole, away with them."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prefillshare.errors import StoreError
from prefillshare.store.codec import PLAIN, Decoders, codec_name
from prefillshare.store.disk import DiskPages
from prefillshare.store.folders import (
    DISK_SUFFIX,
    MEMORY_PREFIX,
    SUFFIX,
    disk_folder,
    is_used,
    private_folder,
    remove_folder,
    store_folders,
    taken_bytes,
)
from prefillshare.store.layout import TableLayout
from prefillshare.store.lock import FileLock
from prefillshare.store.memory import MappedFile, MappedPages
from prefillshare.store.opening import FileHeader, is_path_used, read_header
from prefillshare.store.stats import Medium
from prefillshare.store.table import Table
from prefillshare.store.tier import PageReader


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundStore:
    """One file with pages."""

    path: Path
    medium: Medium
    name: str
    """The deployment's, where the pages are in memory; a disk tier may be that of several."""
    is_used: bool
    header: FileHeader | None
    """None where it cannot be read: the next engine makes the file anew."""
    num_pages: int
    num_bytes: int
    """What the file takes."""
    num_encoded: int = 0
    """Pages that are kept by a codec."""
    trouble: str | None = None
    """Why none of its pages can be read; None where they can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What reading every page of a file gave."""

    num_whole: int
    damaged_keys: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    reader: PageReader
    entries: list[tuple[int, np.void]]
    table: Table | None
    """A disk tier's file has its records in itself."""

    def is_still(self, slot: int, record: np.void) -> bool:
        return self.table is None or self.table.is_unchanged(slot, record)


def find_stores(memory: Path, disk: Path | None) -> list[FoundStore]:
    """All files with pages in a file system in memory and, where it is named, in the folder of a disk tier.

    Raises: StoreError for a folder that is not this user's alone, or not there.
    """
    if disk is not None and not os.path.isdir(disk):  # unlike Path's, false for a name that is too long, too
        raise StoreError(f"{disk} is no folder: name the `path` of [store]")
    return [*_find_in_memory(memory), *([] if disk is None else _find_on_disk(disk))]


def _find_in_memory(memory: Path) -> Iterator[FoundStore]:
    for folder in store_folders(memory):
        if folder.name.startswith(MEMORY_PREFIX):
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                with contextlib.suppress(FileNotFoundError):  # a deployment that ends takes its store with it
                    yield _describe(path, "memory", folder.name.removeprefix(MEMORY_PREFIX))


def _find_on_disk(disk: Path) -> Iterator[FoundStore]:
    folder = disk_folder(disk)
    if os.path.lexists(folder):
        for path in sorted(private_folder(folder).glob(f"*{DISK_SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):
                yield _describe(path, "disk", disk.name)


def verify_store(store: FoundStore) -> Verified:
    """Read every page; what an engine replaces meanwhile is left out.

    Raises: StoreError when none of its pages can be read.
    """
    if store.header is None or store.trouble is not None:
        raise StoreError(f"{store.path}: {store.trouble}, so none of its pages can be read: clear it")
    into = np.empty(store.header.identity.page_bytes, dtype=np.uint8)
    num_whole, damaged = 0, []
    with _opened(store, store.header) as contents:
        for slot, record in contents.entries:
            key = np.frombuffer(record["key"].tobytes(), dtype="<u8")
            if contents.reader.read(key, slot, record, into) is not None:
                num_whole += 1
            elif contents.is_still(slot, record):
                damaged.append(key.tobytes().hex())
    return Verified(num_whole=num_whole, damaged_keys=damaged)


def clear_store(store: FoundStore, *, force: bool) -> None:
    """Remove a file with pages, and the folder of a store in memory.

    Raises: StoreError while a process uses it, unless by force; where it cannot be removed.
    """
    if store.is_used and not force:
        raise StoreError(
            f"{store.path} is in use: end the deployment first, or add --force (its processes go on with what they "
            "have open, and give it back when they end)"
        )
    try:
        store.path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{store.path} cannot be removed ({error.strerror}): remove it yourself") from error
    if store.medium == "memory" and not list(store.path.parent.glob(f"*{SUFFIX}")):
        remove_folder(store.path.parent, force=force)


def _describe(path: Path, medium: Medium, name: str) -> FoundStore:
    store = FoundStore(path=path, medium=medium, name=name, is_used=False, header=None, num_pages=0, num_bytes=0)
    if not stat.S_ISREG(path.lstat().st_mode):  # no engine opens it; a pipe would be waited for
        return replace(store, trouble="no file (links are not followed)")
    used = is_used(path.parent) if medium == "memory" else is_path_used(path)
    header = read_header(path)
    store = replace(store, is_used=used, header=header, num_bytes=taken_bytes(path))
    if header is None:
        path.stat()  # raises where it is gone
        return replace(store, trouble="header damaged")
    try:
        with _opened(store, header) as contents:
            num_encoded = sum(1 for _, record in contents.entries if record["codec"] != PLAIN)
            return replace(store, num_pages=len(contents.entries), num_encoded=num_encoded)
    except StoreError as error:
        # One that cannot be read is listed all the same, beside the others, and can be cleared.
        return replace(store, trouble=str(error))


@contextlib.contextmanager
def _opened(store: FoundStore, header: FileHeader) -> Iterator[_Contents]:
    identity = header.identity
    codec_name(header.codec)
    decoders = Decoders(identity.kv_dtype, identity.page_bytes)
    descriptor = os.open(store.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    with contextlib.ExitStack() as resources:
        if store.medium == "disk":
            disk = DiskPages(descriptor, store.path, num_slots=header.num_slots, slot_bytes=header.slot_bytes)
            resources.callback(disk.close)
            yield _Contents(reader=PageReader(disk, decoders), entries=disk.records(), table=None)
            return
        layout = TableLayout(num_slots=header.num_slots)
        lock = FileLock(descriptor)
        resources.callback(lock.close)
        mapped = MappedPages(descriptor, start=layout.end, num_slots=header.num_slots, slot_bytes=header.slot_bytes)
        resources.callback(mapped.close)
        if os.fstat(descriptor).st_size < layout.end:
            raise StoreError("the file was cut")
        table = Table(MappedFile(descriptor, 0, layout.end).data, layout, lock)
        slots = table.ready_slots()
        entries = list(zip(slots.tolist(), table.snapshot(slots), strict=True))
        yield _Contents(reader=PageReader(mapped, decoders), entries=entries, table=table)
