"""Keys of tenants: made at random, known by their hash."""

import hashlib
import secrets

from prefillshare.config.tenants import HASH_START

_KEY_START = "ps-"
_KEY_BYTES = 32
_SALT_BYTES = 16


def make_key() -> str:
    """Return a new key; of 256 random bits, so that a plain hash of it tells nothing."""
    return _KEY_START + secrets.token_urlsafe(_KEY_BYTES)


def make_salt() -> str:
    """Return a new salt."""
    return secrets.token_hex(_SALT_BYTES)


def hash_key(key: str) -> str:
    """Return what is written down of a key."""
    return HASH_START + hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
