"""How a page is kept: what every codec does, and the one that does nothing."""

from abc import ABC, abstractmethod
from typing import ClassVar

from prefillshare.store.base import Bytes

PLAIN = 0
"""The number of pages that are kept as they are."""


class Codec(ABC):
    """Makes a page smaller, without loss."""

    number: ClassVar[int]
    """Stands in the record of each page that the codec made."""

    @abstractmethod
    def encode(self, page: Bytes) -> Bytes | None:
        """The page in at most `most_bytes`, in an array of its own; None where it does not fit, and stays as it is."""

    @abstractmethod
    def decode(self, stored: Bytes, into: Bytes) -> None:
        """Fill `into` with the page.

        Raises: ValueError where `stored` cannot be a page of that size. Other damage gives another page: the digest
        tells.
        """

    @abstractmethod
    def most_bytes(self, page_bytes: int) -> int:
        """Bytes that an encoded page takes at most: the size of a slot."""
