"""A client's call, as far as the router understands it; the rest is the worker's to judge."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefillshare.routing.choice.demand import Demand
from prefillshare.tenants.account import Account

Body = Mapping[str, Any]
"""The JSON object that a client sent; what its values are is checked where they are read."""
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/generate", "/v1/messages", "/v1/responses"]


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
    num_samples: int = 1
    """Answers to each prompt."""
    account: Account | None = None
    """The tenant whose call it is; None for everybody else's."""
    hides_usage: bool = False
    """Whether the workers are to tell the usage at the end of a stream, and the client is not."""
    scoring: Mapping[str, Any] | None = None
    """What a prefill worker is asked for the log-probabilities of the prompts; None where they are not wanted."""

    @property
    def has_one_answer(self) -> bool:
        """Whether a conversation can only go on from one answer."""
        return self.num_prompts is None and self.num_samples == 1
