"""Which session a call belongs to, as its headers and its body say: the same at router and engine."""

from collections.abc import Callable, Mapping
from typing import Any

from prefillshare.wire.text import session_name


def find_session(header: str | None, body: Mapping[str, Any], rename: Callable[[str], str] | None = None) -> str | None:
    """Return the name of the call's session, as `rename` keeps it apart from others'; None when it names none."""
    metadata = body.get("metadata")
    end_user = metadata.get("user_id") if isinstance(metadata, Mapping) else None  # as Anthropic's interface calls it
    for value in (header, body.get("session_id"), body.get("user"), end_user):
        if isinstance(value, str) and value:
            return session_name(value if rename is None else rename(value))
    return None
