"""Values that a worker takes and then dies of, or that this topology cannot serve: refused before any worker sees them.

SGLang 0.5.17 checks most of a body itself. Each check here stands for one that it lacks: the scheduler process ends
with an exception, and with it every call that it was serving.
"""

from collections.abc import Mapping
from typing import Any

from prefillshare.routing.call.call import Body
from prefillshare.routing.errors import BadCallError
from prefillshare.wire.from_router import MEMBER

MAX_TOKEN_IDS = 1 << 31
MAX_TOP_LOGPROBS = 1000
MAX_LOGIT_BIAS = 100
_UNSERVED = {
    MEMBER: "it is for a router and its workers",
    "session_params": "SGLang's sessions live in one engine: send the whole conversation, its prefix is cached",
    "positional_embed_overrides": "embeddings cannot be prefilled for another worker: send token ids",
    "input_embeds": "embeddings cannot be prefilled for another worker: send input_ids",
}
_NAMESPACES = ("extra_key", "cache_salt")
_LOGPROBS = ("top_logprobs", "logprobs", "top_logprobs_num")
_CHECKED = frozenset((*_UNSERVED, *_NAMESPACES, *_LOGPROBS, "sampling_params", "logit_bias"))
"""Most calls have none of them."""


def check_fields(body: Body, num_prompts: int | None, vocab_size: int | None) -> None:
    """Refuse fields that no worker may see.

    Raises: BadCallError.
    """
    if body.keys().isdisjoint(_CHECKED):
        return
    for name, reason in _UNSERVED.items():
        if body.get(name) is not None:
            raise BadCallError(f"{name} cannot be used here: {reason}", param=name)
    for name in _NAMESPACES:
        _check_namespace(body.get(name), name, num_prompts)
    samplings = body.get("sampling_params")
    for place in [body, *(samplings if isinstance(samplings, list) else [samplings])]:
        if isinstance(place, Mapping):
            _check_logit_bias(place.get("logit_bias"))
    limit = min(MAX_TOP_LOGPROBS, vocab_size or MAX_TOP_LOGPROBS)
    for name in _LOGPROBS:
        value = body.get(name)
        for count in value if isinstance(value, list) else [value]:
            if isinstance(count, int | float) and not 0 <= count <= limit:
                raise BadCallError(f"{name} is {count}: it must be from 0 to {limit}", param=name)


def check_items(items: Any, name: str, vocab_size: int | None) -> None:
    """Refuse a prompt list that mixes kinds, and ids that are no tokens.

    Raises: BadCallError.
    """
    kind = type(items[0]) if isinstance(items, list) and items else None
    if kind not in (int, str) or any(type(item) is not kind for item in items):
        raise BadCallError(f"{name} mixes or nests texts and token ids: send only texts, or only token ids", param=name)
    num_ids = vocab_size or MAX_TOKEN_IDS
    if kind is int and not 0 <= min(items) <= max(items) < num_ids:
        wrong = next(item for item in items if not 0 <= item < num_ids)
        raise BadCallError(f"{name} has the token id {wrong}: ids are from 0 to {num_ids - 1}", param=name)


def _check_logit_bias(biases: Any) -> None:
    for token, bias in biases.items() if isinstance(biases, Mapping) else ():
        if not isinstance(bias, int | float) or not -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS:
            wanted = f"a bias is a number from {-MAX_LOGIT_BIAS} to {MAX_LOGIT_BIAS}"
            raise BadCallError(f"logit_bias of token {token} is {str(bias)[:40]}: {wanted}", param="logit_bias")


def _check_namespace(value: Any, name: str, num_prompts: int | None) -> None:
    if value is None or isinstance(value, str):
        return
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if not is_list or num_prompts is None or len(value) != num_prompts:
        raise BadCallError(
            f"{name} is of the wrong kind: it must be text, or for a batch a list with one text for each prompt",
            param=name,
        )
