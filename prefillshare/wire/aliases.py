"""What an alias is said to mean in a body: `{"module": NAME}` or `{"weights": {NAME: SHARE, ...}}`."""

from collections.abc import Mapping


def read_meaning(body: object) -> object:
    """Return what `naming.alias.read_alias` reads; nothing of it when the body has neither member or both."""
    if not isinstance(body, Mapping) or len(body) != 1:
        return None
    return body.get("module") or body.get("weights")
