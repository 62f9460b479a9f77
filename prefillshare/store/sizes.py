"""How many pages fit: what a store is told in bytes, in slots."""

from collections.abc import Callable
from pathlib import Path

from prefillshare.errors import StoreError
from prefillshare.store.folders import free_bytes
from prefillshare.store.layout import RECORD_BYTES, WAYS, TableLayout

_TABLE_BYTES_PER_SLOT = RECORD_BYTES + 4 * WAYS + 9
"""Record, index, state, last use."""
_SLOT_ALIGNMENT = 64
"""Rows of the machine's cache; what numpy and the codec read fastest."""


def slot_bytes_for(page_bytes: int) -> int:
    """The size of a slot that holds `page_bytes`."""
    return -(-page_bytes // _SLOT_ALIGNMENT) * _SLOT_ALIGNMENT


def num_slots_within(
    num_bytes: int, whole_bytes: Callable[[int], int], slot_bytes: int, slots_per_page: int, what: str
) -> int:
    """The slots that fit into a file of `num_bytes`, where `whole_bytes` says the size of one with so many slots.

    Raises: StoreError when not even one page fits.
    """
    num_slots = num_bytes // (slot_bytes + _TABLE_BYTES_PER_SLOT)
    while num_slots and whole_bytes(num_slots) > num_bytes:
        num_slots -= max(1, num_slots // 256)
    if num_slots < slots_per_page:
        least = whole_bytes(slots_per_page)
        raise StoreError(f"{what} = {num_bytes:,} holds no page of this model: set at least {least:,} under [store]")
    return num_slots


def memory_file_bytes(num_slots: int, slot_bytes: int) -> int:
    """The size of the memory tier's file: its table, and the slots."""
    return TableLayout(num_slots=num_slots).end + num_slots * slot_bytes


def check_room(folder: Path, num_bytes: int, what: str) -> None:
    """Raises: StoreError when the file system of the folder has less free than the store may take."""
    if (free := free_bytes(folder)) < num_bytes:
        raise StoreError(
            f"{what} = {num_bytes:,} is more than the file system of {folder} has free ({free:,} bytes): set less "
            "under [store], or give the file system more (a container: --shm-size)"
        )
