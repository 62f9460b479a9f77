"""A client's call, as far as the router understands it; the rest is the worker's to judge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefillshare.routing.choice.demand import Demand

Body = Mapping[str, Any]
"""The JSON object that a client sent; what its values are is checked where they are read."""
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/generate"]


@dataclass(slots=True, kw_only=True)
class Call(Demand):
    """One call of a client: what it wants of the workers, and what they are sent."""

    endpoint: Endpoint
    """Path at the workers, too."""
    shared_body: bytes
    """JSON object with what both legs are told."""
    answer_fields: Mapping[str, Any]
    """What the client wants of the answer, for the leg that answers."""
    is_stream: bool
    """Whether the answer comes in pieces."""
    num_prompts: int | None
    """Prompts of a batch; None when the call is not a batch."""
