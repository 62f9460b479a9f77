"""Codecs for pages: `base.py` is what they share, then a file for each; `choice.py` says when one is used."""

from prefillshare.errors import StoreError
from prefillshare.store.codec.base import PLAIN, Codec
from prefillshare.store.settings import CodecName

__all__ = ["PLAIN", "Codec", "Decoders", "can_encode", "codec_name", "make_codec"]

_NAMES: dict[int, CodecName] = {PLAIN: "none", 1: "splitzip"}

_BFLOAT16 = ("bfloat16", "torch.bfloat16", "bf16")
_PAGE_ALIGNMENT = 16
"""As `splitzip.PAGE_ALIGNMENT`, which is not imported before it is wanted."""


def can_encode(kv_dtype: str, page_bytes: int) -> bool:
    """Whether there is a codec that makes such pages smaller."""
    return kv_dtype in _BFLOAT16 and page_bytes % _PAGE_ALIGNMENT == 0


def make_codec(name: CodecName, kv_dtype: str, page_bytes: int) -> Codec | None:
    """The codec by which all pages of a store are kept; None keeps them as they are, or decides page by page.

    Raises: StoreError when the codec cannot make pages of that type smaller.
    """
    if name != "splitzip":
        return None
    if kv_dtype not in _BFLOAT16:
        raise StoreError(
            f'codec = "splitzip" is for KV in bfloat16, and this model\'s is {kv_dtype}: set codec = "auto" '
            "under [store]"
        )
    if not can_encode(kv_dtype, page_bytes):
        raise StoreError(
            f'codec = "splitzip" is for pages of a multiple of {_PAGE_ALIGNMENT} bytes, and this model\'s have '
            f'{page_bytes}: set codec = "auto" under [store]'
        )
    # Compiled at import: only where it is wanted.
    from prefillshare.store.codec.splitzip import SplitZip

    return SplitZip()


def codec_name(number: int) -> CodecName:
    """The name of the codec with the number that a file's header has.

    Raises: StoreError for a number that this version does not know.
    """
    if number not in _NAMES:
        raise StoreError(f"codec {number} is not known to this version: its pages cannot be read")
    return _NAMES[number]


class Decoders:
    """Codecs by the number that a page has, each made when the first such page is read."""

    def __init__(self, kv_dtype: str, page_bytes: int) -> None:
        self._kv_dtype = kv_dtype
        self.page_bytes = page_bytes
        self._known: dict[int, Codec] = {}

    def get(self, number: int) -> Codec:
        """The codec of a page that is not plain.

        Raises: ValueError for a number that no page of these can have.
        """
        if number not in self._known:
            try:
                codec = make_codec(codec_name(number), self._kv_dtype, self.page_bytes)
            except StoreError as error:
                raise ValueError(str(error)) from error
            if codec is None:
                raise ValueError(f"codec {number} keeps pages as they are")
            self._known[number] = codec
        return self._known[number]
