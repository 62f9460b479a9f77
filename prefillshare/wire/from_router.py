"""What the router tells a worker beside a client's body, where SGLang's models have no member for it.

It stands in the body under `MEMBER`; a worker takes it out before SGLang reads the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

MEMBER = "prefillshare_router"
"""Member of a body from the router to a worker."""

PromptLogprobs = Mapping[str, Any]
"""Of one prompt, what SGLang's `meta_info` has under `PROMPT_LOGPROB_KEYS`."""
PROMPT_LOGPROB_KEYS = ("input_token_logprobs", "input_top_logprobs", "input_token_ids_logprobs")


class FromRouter(TypedDict, total=False):
    """One of these objects; all members are optional."""

    rid: str
    """Id of the request, by which it can be aborted."""
    bootstrap_host: str
    """Address at which the pair of workers meets."""
    bootstrap_port: int
    """Port there."""
    bootstrap_room: int
    """Room there; samples of one call have rooms that follow each other."""
    prompt_logprobs: Sequence[PromptLogprobs]
    """Log-probabilities of each prompt, from a prefill worker: a decode worker has no logits of them."""
    choice: str
    """That the hidden states of the prompts are wanted, to choose a module, and an id of that question."""
    chosen_by: str
    """Id of the question by which this call's module was chosen, just before."""
