"""Objects of OpenAI's Responses API that SGLang 0.5.17 writes or reads otherwise than its clients."""

from collections.abc import Mapping
from typing import Any

import orjson

from prefillshare.errors import AnswerError, short_repr


def read_response(content: bytes) -> dict[str, Any]:
    """Return the response in SGLang's answer, in OpenAI's forms.

    Raises: AnswerError.
    """
    try:
        response = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise AnswerError(f"answered with what is no JSON: {short_repr(content[:60])}") from None
    return as_told(response)


def as_told(response: Any) -> dict[str, Any]:
    """Return a response of SGLang's in OpenAI's forms.

    Raises: AnswerError where it is none.
    """
    try:
        told = {**as_cut_off(response)}
        usage, output = told.get("usage"), told.setdefault("output", [])
        if isinstance(usage, Mapping):
            told["usage"] = as_responses_usage(usage)
    except (LookupError, TypeError, AttributeError):
        output = None
    if not isinstance(output, list):
        raise AnswerError(f"answered with what is no response: {short_repr(response)}")
    return told


def simplify_item(item: Any) -> Any:
    """Return an item of the input; an answer that comes back, in pieces, as the plain message that it stands for.

    SGLang takes the pieces of an answer for what only a program could have sent, and refuses them.
    """
    if not isinstance(item, Mapping) or item.get("role") != "assistant" or not isinstance(item.get("content"), list):
        return item
    texts = [part.get("text", part.get("refusal")) for part in item["content"] if isinstance(part, Mapping)]
    if len(texts) != len(item["content"]) or not all(isinstance(text, str) for text in texts):
        return item
    return {"role": "assistant", "content": "\n".join(texts)}


def as_responses_usage(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the numbers of tokens by the names of the Responses API, where SGLang has those of chats."""
    if "prompt_tokens" not in usage:
        return usage
    details = usage.get("prompt_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": details.get("cached_tokens") or 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens") or 0},
        "total_tokens": usage["total_tokens"],
    }


def as_cut_off(response: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a response that has `incomplete_details` with the status of such ones, which SGLang does not know."""
    if not response.get("incomplete_details"):
        return response
    output = list(response.get("output") or ())
    # What is cut off is the last of it.
    if output and isinstance(output[-1], Mapping) and "status" in output[-1]:
        output[-1] = {**output[-1], "status": "incomplete"}
    return {**response, "status": "incomplete", "output": output}
