"""Codecs for pages: `base.py` is what they share, then a file for each."""

from prefillshare.errors import StoreError
from prefillshare.store.codec.base import PLAIN, Codec
from prefillshare.store.settings import CodecName

__all__ = ["PLAIN", "Codec", "make_codec"]


def make_codec(name: CodecName, kv_dtype: str, page_bytes: int) -> Codec | None:
    """The codec of a store; None keeps pages as they are.

    Raises: StoreError when the codec cannot make pages of that type smaller.
    """
    if name == "none":
        return None
    raise StoreError(f'codec = "{name}" is not there for KV of {kv_dtype} in pages of {page_bytes} bytes: set "none"')
