"""In which namespace of the cache a call is: what its client wants to have kept apart (I7)."""

import json


def cache_namespace(cache_salt: str | None, extra_key: str | None) -> str | None:
    """Return one key for both; injective in the salt whatever the other one holds."""
    if not cache_salt:
        return extra_key or None
    return "salt:" + json.dumps([cache_salt, extra_key or ""])
