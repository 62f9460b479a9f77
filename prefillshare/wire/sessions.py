"""Which session a call belongs to, as its headers and its body say: the same at router and engine."""

from collections.abc import Mapping
from typing import Any

from prefillshare.wire.text import session_name


def find_session(header: str | None, body: Mapping[str, Any]) -> str | None:
    """Return the name of the call's session; None when it names none."""
    metadata = body.get("metadata")
    end_user = metadata.get("user_id") if isinstance(metadata, Mapping) else None  # as Anthropic's interface calls it
    for value in (header, body.get("session_id"), body.get("user"), end_user):
        if isinstance(value, str) and value:
            return session_name(value)
    return None
