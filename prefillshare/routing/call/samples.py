"""How many answers a call wants to each of its prompts."""

from collections.abc import Mapping
from typing import Any

from prefillshare.errors import short_repr
from prefillshare.routing.call.call import Body, Endpoint
from prefillshare.routing.errors import BadCallError

MAX_SAMPLES = 128
"""As the OpenAI API defines it."""


def count_samples(endpoint: Endpoint, body: Body, *, is_prefill_only: bool, is_prefetch: bool = False) -> int:
    """Return the answers to each prompt; one, and empty, to those of a call that is sent ahead of itself.

    Raises: BadCallError, also for a call that asks for no token: there is one empty answer.
    """
    places = as_list(body.get("sampling_params")) if endpoint == "/generate" else [body]
    counts = {_read_count(place.get("n")) for place in places if isinstance(place, Mapping)}
    if len(counts) > 1:
        raise BadCallError("n differs between the prompts of one call: give the same, or send several calls", param="n")
    count = counts.pop() if counts else 1
    if is_prefetch:
        return 1
    if is_prefill_only and count > 1:
        raise BadCallError(f"n is {count} with max_new_tokens 0: no token has no samples, leave n out", param="n")
    return count


def _read_count(value: object) -> int:
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SAMPLES:
        raise BadCallError(f"n is {short_repr(value)}: it must be a whole number from 1 to {MAX_SAMPLES}", param="n")
    return value


def as_list(value: Any) -> list[Any]:
    """Return `value` if it is a list, else a list with it alone."""
    return value if isinstance(value, list) else [value]
