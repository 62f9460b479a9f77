"""Log-probabilities of the prompt together with an answer.

A decode worker has no logits of a prompt: the prefill module makes its KV. So a prefill worker is asked first, for no
token; the call that follows finds the prompt in its cache. What it said goes to the decode worker with the call, which
puts it where one engine would: the answer, streamed or not, is written by SGLang either way.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from prefillshare.errors import AnswerError
from prefillshare.routing.call.call import Body, Endpoint
from prefillshare.routing.call.samples import as_list
from prefillshare.routing.workers.leg import Leg
from prefillshare.wire.from_router import PROMPT_LOGPROB_KEYS, PromptLogprobs
from prefillshare.wire.namespace import cache_namespace

_NOTHING = {"max_new_tokens": 0, "temperature": 0}
_OF_GENERATE = (
    "text input_ids extra_key logprob_start_len top_logprobs_num token_ids_logprob return_text_in_logprobs priority"
).split()


def make_scoring(endpoint: Endpoint, body: Body) -> Mapping[str, Any] | None:
    """Return the fields of a `/generate` that asks for the log-probabilities of the prompts; None if nobody does."""
    if endpoint == "/generate":
        return _score_generate(body)
    # As SGLang reads a completion: log-probabilities of the prompt come with its echo, and not with none.
    if endpoint == "/v1/completions" and body.get("echo") is True and body.get("logprobs"):
        return _score_completion(body)
    return None


def read_scores(content: bytes) -> list[PromptLogprobs]:
    """Return the log-probabilities of each prompt in a prefill worker's answer.

    Raises: AnswerError when it has none.
    """
    try:
        infos = [item["meta_info"] for item in as_list(orjson.loads(content))]
        return [{key: info[key] for key in PROMPT_LOGPROB_KEYS if key in info} for info in infos]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        raise AnswerError("told no log-probabilities of the prompt") from None


class Scoring:
    """The scores of one attempt: asked by its prefill leg, awaited by its decode leg."""

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        """The request for them."""
        self.scores: asyncio.Future[list[PromptLogprobs]] = asyncio.get_running_loop().create_future()
        """What came of it; never set where the worker refused."""


def _score_generate(body: Body) -> Mapping[str, Any] | None:
    starts = [start for start in as_list(body.get("logprob_start_len")) if isinstance(start, int)]
    if not any(as_list(body.get("return_logprob"))) or not any(start >= 0 for start in starts):
        return None
    given = {name: body[name] for name in _OF_GENERATE if body.get(name) is not None}
    return {**given, "return_logprob": body["return_logprob"], "sampling_params": _NOTHING}


def _score_completion(body: Body) -> Mapping[str, Any]:
    prompt = body["prompt"]
    is_text = isinstance(prompt, str) or isinstance(prompt[0], str)
    return {
        "text" if is_text else "input_ids": prompt,
        "extra_key": cache_namespace(body.get("cache_salt"), body.get("extra_key")),
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": body["logprobs"],
        "return_text_in_logprobs": True,
        "sampling_params": _NOTHING,
    }
