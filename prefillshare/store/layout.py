"""Where things lie in the file of a table. docs/store-format.md draws it.

0         header: what the file is, checked by a digest of its own; the clock
4096      index:    buckets of 8 slot numbers, by the first 8 bytes of a key
...       states:   one byte for each slot
...       last use: one count of the store's clock for each slot
...       records:  128 bytes for each slot: the key of its page, and how to check it
data      segments of slots; only in the memory tier
"""

from dataclasses import dataclass

import numpy as np

HEADER_BYTES = 4096
DESCRIPTION_OFFSET = 256
CLOCK_OFFSET = 2048
"""On a cache line of its own: every reader writes it."""
WAYS = 8
RECORD_BYTES = 128
_ALIGNMENT = 4096

FREE, WRITING, READY, CONTINUED = range(4)
"""States of a slot. CONTINUED: the second half of the page whose record names it as `second`."""

NO_SLOT = -1

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("format", "<u4"),
        ("codec", "<u4"),
        ("num_slots", "<u8"),
        ("slot_bytes", "<u8"),
        ("page_bytes", "<u8"),
        ("identity", "u1", (32,)),
        ("digest", "<u8"),
    ]
)

RECORD = np.dtype(
    {
        "names": ["key", "digest", "generation", "last_use", "writer_ticks", "length", "second", "writer_pid", "codec"],
        "formats": ["V32", "<u8", "<u8", "<u8", "<u8", "<u4", "<i4", "<i4", "u1"],
        "offsets": [0, 32, 40, 48, 56, 64, 68, 72, 76],
        "itemsize": RECORD_BYTES,
    }
)
"""`last_use` and the digest over the record (its last 8 bytes) are for the disk tier, which has records of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLayout:
    """Offsets inside of a table's file."""

    num_slots: int

    @property
    def num_buckets(self) -> int:
        """At least one for each slot: of random keys, one bucket in a million would need a ninth way."""
        return 1 << (self.num_slots - 1).bit_length()

    @property
    def index(self) -> int:
        return HEADER_BYTES

    @property
    def states(self) -> int:
        return self.index + 4 * WAYS * self.num_buckets

    @property
    def last_use(self) -> int:
        return aligned(self.states + self.num_slots, 64)

    @property
    def records(self) -> int:
        return aligned(self.last_use + 8 * self.num_slots, RECORD_BYTES)

    @property
    def end(self) -> int:
        """Where the table ends and data may begin, at a page of the machine's memory."""
        return aligned(self.records + RECORD_BYTES * self.num_slots, _ALIGNMENT)


def aligned(offset: int, alignment: int) -> int:
    """The first multiple of `alignment` from `offset` on."""
    return -(-offset // alignment) * alignment
