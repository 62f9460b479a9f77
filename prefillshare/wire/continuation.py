"""With which tokens the next prompt begins after an answer: a decode worker tells its router."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """The start of the prompt that follows an answer; its JSON object has these names."""

    input_ids: list[int]
    """Token ids: the prompt's, then those of the answer as history."""
    extra_key: str | None
    """Namespace of the user: what keeps its KV apart from that of others."""
    module: str
    """Decode module that answered."""
    new_tokens: int
    """Tokens beyond the prompt of the call."""
