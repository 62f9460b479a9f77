"""The memory tier: one file in shared memory, its table first, then slots, mapped by every process.

The file grows a segment at a time, and each segment is allocated before it is mapped: where memory ends, the store
stays as large as it is. Where others take the memory away all the same, zeros are read (`bus_errors.py`).
"""

import errno
import mmap
import os
from collections.abc import Sequence

import numpy as np

from prefillshare.store.base import Bytes, Pages
from prefillshare.store.bus_errors import GuardedMap
from prefillshare.store.stats import Medium

_SEGMENT_BYTES = 64 << 20
_MOST_SEGMENTS = 1024
"""A process may have 65,530 mappings, and wants some for itself."""


class MappedPages(Pages):
    """Slots of the file behind `descriptor`, from `start` on."""

    medium: Medium = "memory"

    def __init__(self, descriptor: int, *, start: int, num_slots: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._descriptor = descriptor
        self._start = start
        self._num_slots = num_slots
        wanted = max(_SEGMENT_BYTES, num_slots * slot_bytes // _MOST_SEGMENTS)
        self._slots_per_segment = max(1, min(wanted // slot_bytes, num_slots))
        self._segment_bytes = -(-self._slots_per_segment * slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._mapped: dict[int, MappedFile] = {}

    def num_usable(self) -> int:
        segments = max(0, os.fstat(self._descriptor).st_size - self._start) // self._segment_bytes
        return min(segments * self._slots_per_segment, self._num_slots)

    def grow(self) -> int:
        usable = self.num_usable()
        segments = -(-usable // self._slots_per_segment)
        if usable < self._num_slots:
            try:
                # By its size the file says what is allocated: this is done by one process at a time, under the lock.
                os.posix_fallocate(self._descriptor, self._start + segments * self._segment_bytes, self._segment_bytes)
            except OSError:
                return usable
        return self.num_usable()

    def load(self, slots: Sequence[int], into: Bytes) -> None:
        for slot, part in self.pieces(slots, len(into)):
            np.copyto(into[part], self.view(slot, part.stop - part.start))

    def view(self, slot: int, length: int) -> Bytes:
        segment, place = divmod(slot, self._slots_per_segment)
        if not 0 <= slot < self._num_slots or length > self.slot_bytes:
            raise IndexError(f"slot {slot} with {length} bytes lies outside of the store")
        start = place * self.slot_bytes
        return self._segment(segment).data[start : start + length]

    def save(self, slots: Sequence[int], data: Bytes, record: np.void) -> None:
        for slot, part in self.pieces(slots, len(data)):
            np.copyto(self.view(slot, part.stop - part.start), data[part])

    def find_loss(self) -> str | None:
        # It lies in the file of its table, which is looked at as a whole.
        return next((loss for segment in list(self._mapped.values()) if (loss := segment.find_loss())), None)

    def close(self) -> None:
        self._mapped.clear()
        os.close(self._descriptor)

    def _segment(self, number: int) -> "MappedFile":
        if number not in self._mapped:
            # Two threads may map the same segment at once: the mappings are the same memory.
            place = self._start + number * self._segment_bytes
            if os.fstat(self._descriptor).st_size < place + self._segment_bytes:
                raise IndexError(f"segment {number} is not there")
            self._mapped[number] = MappedFile(self._descriptor, place, self._segment_bytes)
        return self._mapped[number]


class MappedFile:
    """A part of a file as memory; it is unmapped when nobody has the array any more."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        """Raises: OSError."""
        try:
            self._map = GuardedMap(descriptor, length, offset=start)
        except ValueError as error:
            raise OSError(errno.ESTALE, "a file in memory was cut while it was opened") from error
        self.data: Bytes = np.frombuffer(self._map, dtype=np.uint8)

    def find_loss(self) -> str | None:
        """What happened to the memory, if it is the file's no more."""
        if not self._map.num_faults:
            return None
        return "a file in memory was cut, or its file system was full, while it was in use"
