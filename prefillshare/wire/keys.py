"""Which key a request has: the same at router and engine."""

from collections.abc import Callable

OWN_HEADER = "X-Api-Key"
"""As Anthropic's clients send it."""
_BLANKS = " \t"


def find_key(header: Callable[[str], str | None]) -> str:
    """Return the key of a request, of which `header` gives the headers by name; empty where it has none.

    X-Api-Key counts before Authorization, in which others may have written what is not for this server.
    """
    if key := (header(OWN_HEADER) or "").strip(_BLANKS):
        return key
    scheme, _, key = (header("Authorization") or "").strip(_BLANKS).partition(" ")
    return key.strip(_BLANKS) if scheme.lower() == "bearer" else ""
