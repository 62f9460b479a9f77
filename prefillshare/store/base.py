"""What a tier's bytes lie in: numbered slots of one size. A medium is one file beside this one.

Whoever holds a slot (`table.py`) writes it; anybody may read it at any time, and checks what came.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prefillshare.store.stats import Medium

Bytes = NDArray[np.uint8]


class Pages(ABC):
    """Slots of `slot_bytes` each, of which the first `num_usable()` have bytes behind them."""

    medium: Medium
    slot_bytes: int

    @abstractmethod
    def num_usable(self) -> int:
        """Slots that can be read and written now."""

    @abstractmethod
    def grow(self) -> int:
        """Take more from the file system, if there is more to take; return the new `num_usable()`. Never raises."""

    @abstractmethod
    def load(self, slots: Sequence[int], into: Bytes) -> None:
        """Fill `into` from the slots, one after the other.

        Raises: OSError; IndexError for a slot that is not there.
        """

    @abstractmethod
    def view(self, slot: int, length: int) -> Bytes:
        """The first bytes of one slot, to be read before anything else happens.

        Raises: OSError; IndexError for a slot that is not there.
        """

    @abstractmethod
    def save(self, slots: Sequence[int], data: Bytes, record: np.void) -> None:
        """Write a page, and where records lie beside the pages, its record after it.

        Raises: OSError; IndexError for a slot that is not there.
        """

    @abstractmethod
    def find_loss(self) -> str | None:
        """What happened to a file of its own, if others would not find it any more."""

    @abstractmethod
    def close(self) -> None:
        """Give files and mappings back."""

    def pieces(self, slots: Sequence[int], length: int) -> list[tuple[int, slice]]:
        """Which part of a page lies in which slot."""
        starts = range(0, length, self.slot_bytes)
        return [
            (slot, slice(start, min(start + self.slot_bytes, length)))
            for slot, start in zip(slots, starts, strict=True)
        ]
