"""How a process gets at a store's file in memory: it opens what is there, or makes it, or makes it anew."""

import contextlib
import fcntl
import json
import logging
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash

from prefillshare.errors import StoreError
from prefillshare.store.folders import SUFFIX, find_loss
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.layout import CLOCK_OFFSET, DESCRIPTION_OFFSET, HEADER, HEADER_BYTES, TableLayout
from prefillshare.store.lock import FileLock
from prefillshare.store.memory import MappedFile
from prefillshare.store.table import Table

MAGIC = b"PSKVSTOR"
FORMAT = 1
_RANGE = "hhqqi4x"
"""The kernel's `struct flock`."""
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
    path: Path
    memory: MappedFile
    table: Table
    lock: FileLock
    layout: TableLayout
    is_new: bool

    def check_length(self) -> None:
        """Raises: OSError when somebody cut the file."""
        if (length := os.fstat(self.descriptor).st_size) < self.layout.end:
            raise OSError(f"its file was cut to {length:,} bytes while it was in use")
        if (loss := self.memory.find_loss()) is not None:
            raise OSError(loss)

    def find_loss(self) -> str | None:
        """What happened to the file, if others would not find it any more."""
        return find_loss(self.descriptor, self.path, self.layout.end) or self.memory.find_loss()

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
    with contextlib.ExitStack() as resources:
        resources.callback(os.close, descriptor)
        lock = FileLock(descriptor)
        resources.callback(lock.close)
        try:
            with lock.held(_ATTACH_TIMEOUT_S):
                yield
        except TimeoutError as error:
            raise StoreError(
                f"{folder} is held by another process that opens a store ({error}): end that process"
            ) from error


def use_file(descriptor: int) -> None:
    """Say that this process uses the file, until it ends or closes `descriptor`.

    These locks and those of `flock` do not see each other.
    """
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_RANGE, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))


def is_file_used(descriptor: int) -> bool:
    """Whether anybody said so through a descriptor of his own."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_RANGE, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return True
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_RANGE, fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
    return False


def is_path_used(path: Path) -> bool:
    """Whether anybody uses the file that is at `path`."""
    descriptor = os.open(path, _FLAGS)
    try:
        return is_file_used(descriptor)
    finally:
        os.close(descriptor)


def remove_unused(folder: Path) -> None:
    """Remove files of the folder that nobody uses: those of weights, sizes or codecs that were. Held by `attaching`."""
    for path in folder.glob(f"*{SUFFIX}"):
        if not is_path_used(path):
            path.unlink()


def make_file(path: Path, header: FileHeader, num_bytes: int, prepare: Callable[[int], None]) -> int:
    """Make a file under another name, so that it is there wholly or not at all; return its descriptor.

    Raises: StoreError when there is no room for it.
    """
    draft = path.with_suffix(".new")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)
            os.pwrite(descriptor, header.packed(), 0)
            prepare(descriptor)
            os.rename(draft, path)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StoreError(
            f"{path} with {num_bytes:,} bytes cannot be made ({error.strerror}): make room in {path.parent}, or set a "
            "smaller store"
        ) from error
    return descriptor


def read_header(path: Path) -> FileHeader | None:
    """What a store's file says of itself; None where there is no file, or its header is damaged."""
    try:
        with path.open("rb") as file:
            start = file.read(CLOCK_OFFSET)
        packed = np.frombuffer(start[: HEADER.itemsize], dtype=HEADER)[0]
        identity = StoreIdentity(**json.loads(start[DESCRIPTION_OFFSET:].rstrip(b"\x00")))
    except (OSError, ValueError, TypeError, IndexError, StoreError):
        return None
    header = FileHeader(
        identity=identity,
        num_slots=int(packed["num_slots"]),
        slot_bytes=int(packed["slot_bytes"]),
        codec=int(packed["codec"]),
    )
    return header if header.is_that_of(start) else None


def open_file(path: Path, is_right: Callable[[int], bool]) -> int | None:
    """Open a file if it is there and right; say so when it is there and is not."""
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return None
    with contextlib.ExitStack() as wrong:
        wrong.callback(os.close, descriptor)
        if is_right(descriptor):
            wrong.pop_all()
            return descriptor
    logger.warning("%s is damaged, or of another size or codec than is set: it is made anew, empty", path)
    return None


def open_table(path: Path, header: FileHeader) -> OpenTable:
    """The table at `path`, which is made where it is missing, another store's or broken. The caller holds `attaching`.

    Raises: StoreError when there is no room for it, OSError.
    """
    layout = TableLayout(num_slots=header.num_slots)

    def is_right(descriptor: int) -> bool:
        is_long = os.fstat(descriptor).st_size >= layout.end
        return is_long and header.is_that_of(os.pread(descriptor, HEADER_BYTES, 0))

    def empty_index(descriptor: int) -> None:
        MappedFile(descriptor, 0, layout.end).data[layout.index : layout.states] = 0xFF  # NO_SLOT everywhere

    found = open_file(path, is_right)
    descriptor = make_file(path, header, layout.end, empty_index) if found is None else found
    with contextlib.ExitStack() as failed:
        failed.callback(os.close, descriptor)
        use_file(descriptor)
        lock = FileLock(descriptor)
        failed.callback(lock.close)
        memory = MappedFile(descriptor, 0, layout.end)
        table = Table(memory.data, layout, lock)
        failed.pop_all()
    return OpenTable(
        descriptor=descriptor,
        path=path,
        memory=memory,
        table=table,
        lock=lock,
        layout=layout,
        is_new=found is None,
    )
