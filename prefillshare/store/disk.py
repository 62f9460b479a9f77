"""The disk tier: one file with a record beside each slot, read and written by calls, never mapped: an error of the disk
is an error of a call, and not a signal that ends the process.

    0           header, as that of a table
    4096        records: 128 bytes for each slot, the last 8 a digest of the others
    data        slots

The record of a slot is cleared before its bytes change and written after them. So the file alone says what it holds,
and its table, in shared memory, can be made again from it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash

from prefillshare.store.base import Bytes, Pages
from prefillshare.store.folders import find_loss
from prefillshare.store.layout import HEADER_BYTES, RECORD, RECORD_BYTES, aligned
from prefillshare.store.stats import Medium

_CHECKED_BYTES = RECORD_BYTES - 8
_DATA_ALIGNMENT = 4096
_REGROWN_BYTES = 1 << 30
"""What a file that was cut gets back at once: others wait for the table meanwhile."""


class DiskPages(Pages):
    """Slots of the file behind `descriptor`."""

    medium: Medium = "disk"

    def __init__(self, descriptor: int, path: Path, *, num_slots: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._descriptor = descriptor
        self._path = path
        self._num_slots = num_slots
        self._start = data_offset(num_slots)

    def num_usable(self) -> int:
        there = max(0, os.fstat(self._descriptor).st_size - self._start) // self.slot_bytes
        return min(there, self._num_slots)

    def grow(self) -> int:
        # All of it was allocated when it was made: what is missing has been cut off since.
        usable = self.num_usable()
        if usable < self._num_slots:
            num_slots = min(self._num_slots - usable, max(1, _REGROWN_BYTES // self.slot_bytes))
            try:
                os.posix_fallocate(self._descriptor, self._place(usable), num_slots * self.slot_bytes)
            except OSError:
                return usable
        return self.num_usable()

    def load(self, slots: Sequence[int], into: Bytes) -> None:
        for slot, part in self.pieces(slots, len(into)):
            self._read(into[part], self._place(slot))

    def view(self, slot: int, length: int) -> Bytes:
        if length > self.slot_bytes:
            raise IndexError(f"slot {slot} has no {length} bytes")
        data = np.empty(length, dtype=np.uint8)
        self._read(data, self._place(slot))
        return data

    def save(self, slots: Sequence[int], data: Bytes, record: np.void) -> None:
        place = HEADER_BYTES + RECORD_BYTES * slots[0]
        self._write(bytes(RECORD_BYTES), place)
        for slot, part in self.pieces(slots, len(data)):
            self._write(data[part].data, self._place(slot))
        text = record.tobytes()[:_CHECKED_BYTES]
        self._write(text + xxhash.xxh3_64_digest(text), place)

    def find_loss(self) -> str | None:
        return find_loss(self._descriptor, self._path, HEADER_BYTES)  # what is left of a cut file is of use

    def close(self) -> None:
        os.close(self._descriptor)

    def records(self) -> list[tuple[int, np.void]]:
        """Slots with a record that is whole, the one used last first.

        Raises: OSError.
        """
        data = np.empty(RECORD_BYTES * self.num_usable(), dtype=np.uint8)
        self._read(data, HEADER_BYTES)
        rows, records = data.reshape(-1, RECORD_BYTES), data.view(RECORD)
        written = np.flatnonzero(rows.any(axis=1)).tolist()
        whole = [slot for slot in written if _is_whole(rows[slot])]
        return [(slot, records[slot]) for slot in sorted(whole, key=lambda slot: -int(records["last_use"][slot]))]

    def _place(self, slot: int) -> int:
        if not 0 <= slot < self._num_slots:
            raise IndexError(f"slot {slot} lies outside of the store")
        return self._start + slot * self.slot_bytes

    def _read(self, into: Bytes, place: int) -> None:
        while len(into):
            if not (came := os.preadv(self._descriptor, [into.data], place)):
                raise OSError(f"the store's file ends before byte {place + len(into)}")
            into, place = into[came:], place + came

    def _write(self, data: bytes | memoryview, place: int) -> None:
        left = memoryview(data)
        while left:
            went = os.pwrite(self._descriptor, left, place)
            left, place = left[went:], place + went


def data_offset(num_slots: int) -> int:
    """Where the slots begin."""
    return aligned(HEADER_BYTES + RECORD_BYTES * num_slots, _DATA_ALIGNMENT)


def file_bytes(num_slots: int, slot_bytes: int) -> int:
    """The size of the whole file."""
    return data_offset(num_slots) + num_slots * slot_bytes


def _is_whole(row: Bytes) -> bool:
    text = row.tobytes()
    return xxhash.xxh3_64_digest(text[:_CHECKED_BYTES]) == text[_CHECKED_BYTES:]
