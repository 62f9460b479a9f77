"""Keys of tenants: made at random, known by their hash."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import TypeVar

from prefillshare.config.tenants import HASH_START

_KEY_START = "ps-"
_KEY_BYTES = 32
_SALT_BYTES = 16
T = TypeVar("T")


def make_key() -> str:
    """Return a new key; of 256 random bits, so that a plain hash of it tells nothing."""
    return _KEY_START + secrets.token_urlsafe(_KEY_BYTES)


def make_salt() -> str:
    """Return a new salt."""
    return secrets.token_hex(_SALT_BYTES)


def hash_key(key: str) -> str:
    """Return what is written down of a key."""
    return HASH_START + hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def find_by_key(owners: Mapping[str, T], key: str) -> T | None:
    """Return whose key it is, by the hashes of all keys; None where it is nobody's."""
    shown, found = hash_key(key), None
    for known, owner in owners.items():
        # To the end of the list and of each hash: the time tells neither who has the key nor how its hash begins.
        if hmac.compare_digest(shown, known):
            found = owner
    return found
