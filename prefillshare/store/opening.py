"""How a process gets at a store's file in memory: it opens what is there, or makes it, or makes it anew."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash

from prefillshare.errors import StoreError
from prefillshare.store.base import Bytes
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.layout import CLOCK_OFFSET, DESCRIPTION_OFFSET, HEADER, HEADER_BYTES, TableLayout
from prefillshare.store.lock import FileLock
from prefillshare.store.memory import map_file
from prefillshare.store.table import Table

MAGIC = b"PSKVSTOR"
FORMAT = 1
SUFFIX = ".store"
_ATTACH_LOCK = "attach"
_ATTACH_TIMEOUT_S = 120.0
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """What a store's file says of itself; a file with another header is another store's."""

    identity: StoreIdentity
    num_slots: int
    slot_bytes: int
    codec: int

    def packed(self) -> bytes:
        """The first `HEADER_BYTES` of the file."""
        header = np.zeros((), dtype=HEADER)
        header["magic"], header["format"], header["codec"] = MAGIC, FORMAT, self.codec
        header["num_slots"], header["slot_bytes"] = self.num_slots, self.slot_bytes
        header["page_bytes"] = self.identity.page_bytes
        header["identity"] = np.frombuffer(self.identity.digest(), dtype=np.uint8)
        header["digest"] = xxhash.xxh3_64_intdigest(header.tobytes())
        description = json.dumps(asdict(self.identity)).encode()[: CLOCK_OFFSET - DESCRIPTION_OFFSET - 1]
        text = header.tobytes().ljust(DESCRIPTION_OFFSET, b"\x00") + description
        return text.ljust(HEADER_BYTES, b"\x00")

    def is_that_of(self, start: bytes) -> bool:
        """Whether a file begins with this header."""
        return len(start) >= HEADER.itemsize and start[: HEADER.itemsize] == self.packed()[: HEADER.itemsize]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTable:
    """A table in shared memory and the file that it lies in."""

    descriptor: int
    table: Table
    lock: FileLock
    layout: TableLayout
    is_new: bool

    def close(self) -> None:
        """Give the file back; the mapping goes with the table."""
        self.lock.close()
        os.close(self.descriptor)


def store_file(folder: Path, identity: StoreIdentity) -> Path:
    """The file of an identity in a store's folder."""
    return folder / f"{identity.digest().hex()[:32]}{SUFFIX}"


@contextlib.contextmanager
def attaching(folder: Path) -> Iterator[None]:
    """Hold the folder while a file in it is looked at or made.

    Raises: StoreError when another process does so for two minutes.
    """
    descriptor = os.open(folder / _ATTACH_LOCK, _FLAGS | os.O_CREAT, 0o600)
    lock = FileLock(descriptor)
    try:
        with lock.held(_ATTACH_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise StoreError(
            f"{folder} is held by another process that opens a store ({error}): end that process"
        ) from error
    finally:
        lock.close()
        os.close(descriptor)


def open_table(path: Path, header: FileHeader) -> OpenTable:
    """The table at `path`, which is made where it is missing, another store's or broken. The caller holds `attaching`.

    Raises: StoreError when there is no room for it, OSError.
    """
    layout = TableLayout(num_slots=header.num_slots)
    found = _open_existing(path, header, layout)
    descriptor = _make(path, header, layout) if found is None else found
    memory = map_file(descriptor, 0, layout.end)
    lock = FileLock(descriptor)
    return OpenTable(
        descriptor=descriptor,
        table=Table(memory, layout, lock),
        lock=lock,
        layout=layout,
        is_new=found is None,
    )


def _open_existing(path: Path, header: FileHeader, layout: TableLayout) -> int | None:
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return None
    if os.fstat(descriptor).st_size >= layout.end and header.is_that_of(os.pread(descriptor, HEADER_BYTES, 0)):
        return descriptor
    logger.warning("%s is damaged or of another size than is set: it is made anew, empty", path)
    os.close(descriptor)
    return None


def _make(path: Path, header: FileHeader, layout: TableLayout) -> int:
    """Make the file under another name: it is there wholly or not at all."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, layout.end)
        os.pwrite(descriptor, header.packed(), 0)
        _empty_index(map_file(descriptor, 0, layout.end), layout)
        os.rename(draft, path)
    except OSError as error:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
        raise StoreError(
            f"{path} with {layout.end:,} bytes of tables cannot be made ({error.strerror}): make room in "
            f"{path.parent}, or set a smaller store"
        ) from error
    return descriptor


def _empty_index(memory: Bytes, layout: TableLayout) -> None:
    memory[layout.index : layout.states] = 0xFF  # NO_SLOT everywhere
