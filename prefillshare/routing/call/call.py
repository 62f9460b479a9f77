"""A client's call, as far as the router understands it; the rest is the worker's to judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prefillshare.errors import ModuleError
from prefillshare.naming.asked import Judge, Probabilities
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.errors import RoutingError
from prefillshare.tenants.account import Account

Body = Mapping[str, Any]
"""The JSON object that a client sent; what its values are is checked where they are read."""
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/generate", "/v1/messages", "/v1/responses"]


@dataclass(slots=True, kw_only=True)
class Choice:
    """What the prefill module has made of a call's prompts, and what a classifier says of that."""

    id: str
    """Id under which a prefill worker was asked."""
    states: Sequence[object]
    """Hidden state of the last token of each prompt."""
    probabilities: Probabilities = field(default_factory=dict)
    """How likely each module is, once a classifier was asked."""

    def classify(self, judge: Judge, states: Sequence[object]) -> Probabilities:
        """Ask a classifier.

        Raises: RoutingError when it cannot be asked.
        """
        try:
            self.probabilities = judge(states)
        except ModuleError as error:
            raise RoutingError(f"the classifier of this model cannot be asked: {error}") from None
        return self.probabilities


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
    undecided: str | None = None
    """Alias whose classifier has still to choose the module, by what a prefill worker makes of the prompts; until then
    that is the alias's default. None where the module is known."""
    choice: Choice | None = None
    """What was asked about it just before; None where its module was known."""
    prefetched_for: str | None = None
    """The module for whose later call a prefill worker is to have the prompt, and whose name the answer has; None for
    all other calls."""
    hides_usage: bool = False
    """Whether the workers are to tell the usage at the end of a stream, and the client is not."""
    scoring: Mapping[str, Any] | None = None
    """What a prefill worker is asked for the log-probabilities of the prompts; None where they are not wanted."""

    @property
    def asked(self) -> str:
        """As there: of an undecided call, and of the look at its prompts, the alias."""
        return self.undecided or self.module

    @property
    def indexed_share(self) -> float:
        """As there."""
        return 1.0 if self.num_prompts is None else len(self.prompts) / self.num_prompts

    @property
    def has_one_answer(self) -> bool:
        """Whether a conversation can only go on from one answer."""
        return self.num_prompts is None and self.num_samples == 1
