"""Ids of responses: `resp_`, the tag that all responses of one conversation have, and a part of its own."""

import re
import secrets

_ID = re.compile(r"resp_([0-9a-f]{16})[0-9a-f]{16}")
_PART_BYTES = 8


def make_id(previous: str | None = None) -> str:
    """Return a new id, in the conversation of the response `previous`."""
    # Whoever knows an id may read its response: it must be hard to guess.
    tag = previous and read_tag(previous)
    return f"resp_{tag or secrets.token_hex(_PART_BYTES)}{secrets.token_hex(_PART_BYTES)}"


def read_tag(response_id: str) -> str | None:
    """Return the tag of the conversation, None where `response_id` is no id of ours."""
    match = _ID.fullmatch(response_id)
    return match and match[1]


def conversation_name(response_id: str) -> str:
    """Return the session that a conversation is, where its client names none."""
    return f"resp-{read_tag(response_id)}"
