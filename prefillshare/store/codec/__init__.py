"""Codecs for pages: `base.py` is what they share, then a file for each."""

from prefillshare.errors import StoreError
from prefillshare.store.codec.base import PLAIN, Codec
from prefillshare.store.settings import CodecName

__all__ = ["PLAIN", "Codec", "codec_name", "make_codec"]

_NAMES: dict[int, CodecName] = {PLAIN: "none", 1: "splitzip"}

_BFLOAT16 = ("bfloat16", "torch.bfloat16", "bf16")


def make_codec(name: CodecName, kv_dtype: str, page_bytes: int) -> Codec | None:
    """The codec of a store; None keeps pages as they are.

    Raises: StoreError when the codec cannot make pages of that type smaller.
    """
    if name == "none":
        return None
    if kv_dtype not in _BFLOAT16:
        raise StoreError(
            f'codec = "splitzip" is for KV in bfloat16, and this model\'s is {kv_dtype}: set codec = "none" '
            "under [store]"
        )
    # Compiled at import: only where it is wanted.
    from prefillshare.store.codec.splitzip import PAGE_ALIGNMENT, SplitZip

    if page_bytes % PAGE_ALIGNMENT:
        raise StoreError(
            f'codec = "splitzip" is for pages of a multiple of {PAGE_ALIGNMENT} bytes, and this model\'s have '
            f'{page_bytes}: set codec = "none" under [store]'
        )
    return SplitZip()


def codec_name(number: int) -> CodecName:
    """The name of the codec with the number that a file's header has.

    Raises: StoreError for a number that this version does not know.
    """
    if number not in _NAMES:
        raise StoreError(f"codec {number} is not known to this version: its pages cannot be read")
    return _NAMES[number]
