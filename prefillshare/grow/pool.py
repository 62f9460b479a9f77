"""The pool of a family, one file: records one after the other, appended and never changed.

    magic  lengths of header and body  SHA-256 of lengths, header and body  header (JSON)  body (safetensors)

The first record says what the family stands on, each later one holds a whole task: its new units, and which units it
uses with which gates. A task is appended in one write and then synchronised, so it is there as a whole or not at all.
What a killed run or a power failure left of a write stands at the end, fails its checksum, and is cut off by the next
run; damage before the end is refused.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prefillshare.errors import TrainingError
from prefillshare.training.finetune.output import lock_opened

POOL_NAME = "pool.bin"
_MAGIC = b"PSUNITS1"
_LENGTHS = struct.Struct("<QQ")
_HEAD_BYTES = len(_MAGIC) + _LENGTHS.size + hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record."""

    header: Mapping[str, Any]
    """What it says, as JSON."""
    tensors: Mapping[str, Tensor]
    """What it holds."""

    def encode(self) -> bytes:
        """The record as it stands in the file."""
        from safetensors.torch import save

        header = json.dumps(self.header, sort_keys=True).encode()
        body = save(dict(self.tensors))
        lengths = _LENGTHS.pack(len(header), len(body))
        return b"".join((_MAGIC, lengths, _digest(lengths, header, body), header, body))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFile:
    """What a pool file holds."""

    records: tuple[Record, ...]
    """All whole records, in their order."""
    num_bytes: int
    """Bytes of them."""
    num_cut_bytes: int
    """Bytes behind them that are no whole record: an append that was interrupted."""


def read_pool(file: Path) -> PoolFile:
    """Read all records; an empty pool where there is no file.

    Raises: TrainingError when the file cannot be read, or is damaged before its end.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise TrainingError(f"{file} cannot be read ({error.strerror}): check its permissions") from None
    records, at = [], 0
    while (found := _read_record(content, at)) is not None:
        record, at = found
        records.append(record)
    _refuse_damage(file, content, at, len(records))
    return PoolFile(records=tuple(records), num_bytes=at, num_cut_bytes=len(content) - at)


def append_records(file: Path, known: PoolFile, records: tuple[Record, ...]) -> None:
    """Append records to the pool that was read as `known`, all of them or none; the caller holds `lock_family`.

    Effects: first cuts off what an interrupted append left. Returns when the disk has the records.
    Raises: TrainingError when they cannot be written.
    """
    block = b"".join(record.encode() for record in records)
    try:
        with file.open("ab") as stream:
            stream.truncate(known.num_bytes)
            stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        sync_directory(file.parent)
    except OSError as error:
        raise TrainingError(
            f"{file} could not be written ({error.strerror}): free some space there and run it again"
        ) from None


@contextmanager
def lock_family(directory: Path) -> Iterator[None]:
    """Keep other runs out of a family while one looks at it and adds to it.

    Raises: TrainingError when another run is there.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    busy = f"another run grows the family in {directory}: wait for its end, since a task builds on all before it"
    lock_opened(descriptor, directory, busy)
    try:
        yield
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Wait until the disk knows the names in a directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_record(content: bytes, at: int) -> tuple[Record, int] | None:
    """The record that begins there and where it ends; None when there is none that is whole."""
    from safetensors.torch import load

    head = content[at : at + _HEAD_BYTES]
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        return None
    lengths, digest = head[len(_MAGIC) : len(_MAGIC) + _LENGTHS.size], head[len(_MAGIC) + _LENGTHS.size :]
    header_bytes, body_bytes = _LENGTHS.unpack(lengths)
    start = at + _HEAD_BYTES
    middle, end = start + header_bytes, start + header_bytes + body_bytes
    header, body = content[start:middle], content[middle:end]
    if len(header) + len(body) < header_bytes + body_bytes or _digest(lengths, header, body) != digest:
        return None
    return Record(header=json.loads(header), tensors=load(body)), end


def _refuse_damage(file: Path, content: bytes, at: int, num_records: int) -> None:
    """A write that was interrupted has nothing whole behind it, and does not begin with something else."""
    rest = content[at:]
    # Room that the file system gave and the write never filled holds zeros.
    begins_like_a_record = _MAGIC.startswith(rest[: len(_MAGIC)].rstrip(b"\0"))
    if begins_like_a_record and not _has_record(content, at + 1):
        return
    what = f"record {num_records + 1} is damaged" if content.startswith(_MAGIC) else "it does not begin like one"
    raise TrainingError(
        f"{file} is no whole pool, {what} at byte {at}: put back a copy of it; the adapters beside it stay as they are"
    )


def _has_record(content: bytes, start: int) -> bool:
    at = content.find(_MAGIC, start)
    while at >= 0:
        if _read_record(content, at) is not None:
            return True
        at = content.find(_MAGIC, at + 1)
    return False


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
